"""How fast a generation job goes and when it will be through, from what came in the last half minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from inference_worker.child.answers import Answers

WINDOW_SECONDS = 30.0


class Pace:
    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        #: Moment, rows of this attempt, prompt tokens, completion tokens.
        self._seen: deque[tuple[float, int, int, int]] = deque()
        self._first: tuple[float, int, int, int] | None = None

    def measure(self, answers: Answers, num_rows: int) -> dict[str, Any]:
        """Numbers for an event; rates are left out as long as there is nothing to tell them from."""
        now = (self._clock(), answers.num_added, answers.prompt_tokens, answers.completion_tokens)
        self._seen.append(now)
        self._first = self._first or now
        while now[0] - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        done, first = len(answers.done), self._seen[0]
        told = {"done": done, "total": num_rows, "unit": "rows", "num_failed": answers.num_failed}
        seconds = now[0] - first[0]
        if seconds <= 0 or now[1] == first[1]:
            return told
        rows_per_second = (now[1] - first[1]) / seconds
        return told | {
            "rows_per_second": round(rows_per_second, 3),
            "prompt_tokens_per_second": round((now[2] - first[2]) / seconds, 1),
            "tokens_per_second": round((now[3] - first[3]) / seconds, 1),
            "eta_seconds": round((num_rows - done) / rows_per_second),
        }

    def overall(self) -> dict[str, float]:
        """Of this attempt, from its first request to the last answer; after at least one measure."""
        first, last = self._first or self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        if seconds <= 0:
            return {"seconds": 0.0}
        return {
            "seconds": round(seconds, 3),
            "rows_per_second": round((last[1] - first[1]) / seconds, 3),
            "tokens_per_second": round((last[3] - first[3]) / seconds, 1),
        }
