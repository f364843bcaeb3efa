"""The same prompts to several models and settings at once: who asks, in which order, and what is told of it meanwhile.

A comparison is a table: a row for each prompt, a column for each model under each setting. Its cells are asked side by
side, row by row, and one that fails fails alone. Knows nothing of HTTP (gateway/compare.py).
"""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gateway.answering import Read, Stopped, read
from gateway.call import Answer
from gateway.congestion import Overloaded
from gateway.worddiff import difference
from shared.errors import TunesmithError

log = logging.getLogger(__name__)

#: An event of the comparison: its name and what it tells; None: nothing for HEARTBEAT_SECONDS.
Told = tuple[str, dict[str, Any]] | None
#: A client that left is noticed when something is written to it.
HEARTBEAT_SECONDS = 5.0
#: How long a cell waits for room among the requests of others. What it waits is not counted as its answer's time.
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.1, 300.0


@dataclass(frozen=True, kw_only=True)
class Column:
    #: The model, and what tells the setting from the others where there are several.
    name: str
    model: str
    #: Members of each request of this column beside model and prompt.
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    columns: Sequence[Column]
    #: Of each row what the request asks: {"messages": [...]} or {"prompt": text}.
    prompts: Sequence[Mapping[str, Any]]
    #: Cells asked at once.
    parallel: int


#: Sends the request of one cell: its body as it goes to the model.
Ask = Callable[[dict[str, Any]], Answer]


@dataclass(frozen=True, kw_only=True)
class Cell:
    row: int
    column: int

    def as_dict(self) -> dict[str, int]:
        return {"row": self.row, "column": self.column}


@dataclass(kw_only=True)
class Table:
    """What has been answered."""

    plan: Plan
    answers: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    def differences(self, cell: Cell) -> Iterator[dict[str, Any]]:
        """What can be compared now that this cell is answered: with the first column, or the others with it."""
        for column in range(1, len(self.plan.columns)):
            if cell.column not in (0, column):
                continue
            first = self._text(Cell(row=cell.row, column=0))
            other = self._text(Cell(row=cell.row, column=column))
            if first is not None and other is not None:
                yield {"row": cell.row, "column": column, "against": 0, **difference(first, other).as_dict()}

    def is_whole(self, row: int) -> bool:
        return all(Cell(row=row, column=at) in self.answers for at in range(len(self.plan.columns)))

    def summary(self) -> list[dict[str, Any]]:
        return [self._column(at) for at in range(len(self.plan.columns))]

    def _text(self, cell: Cell) -> str | None:
        answer = self.answers.get(cell)
        return None if answer is None or answer["error"] is not None else str(answer["text"])

    def _column(self, column: int) -> dict[str, Any]:
        found = [answer for cell, answer in self.answers.items() if cell.column == column]
        whole = [answer for answer in found if answer["error"] is None]
        tokens = [answer["completion_tokens"] or 0 for answer in whole]
        seconds = [answer["seconds"] for answer in whole]
        first = [answer["first_token_seconds"] for answer in whole if answer["first_token_seconds"] is not None]
        return {
            "column": column,
            "num_answers": len(whole),
            "num_failed": len(found) - len(whole),
            "completion_tokens": sum(tokens),
            "mean_seconds": _mean(seconds),
            "mean_first_token_seconds": _mean(first),
            "tokens_per_second": round(sum(tokens) / sum(seconds), 2) if sum(seconds) else None,
        }


def told(plan: Plan, ask: Ask) -> Generator[Told]:
    """Asks every cell and tells `delta`, `answer` and `difference` as they come, `row` when a row is whole, at last
    `done` with the summary.

    Closing it ends what is still being answered. Nothing is asked before its first step.
    """
    table, news, stopped = Table(plan=plan), queue.SimpleQueue[tuple[str, dict[str, Any]]](), threading.Event()
    cells = [Cell(row=row, column=at) for row in range(len(plan.prompts)) for at in range(len(plan.columns))]
    pool = ThreadPoolExecutor(min(plan.parallel, len(cells)), thread_name_prefix="comparison")
    try:
        for cell in cells:
            pool.submit(_answer, plan, cell, ask, news, stopped)
        while len(table.answers) < len(cells):
            try:
                kind, data = news.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                yield None
                continue
            yield kind, data
            if kind == "answer":
                cell = Cell(row=data["row"], column=data["column"])
                table.answers[cell] = data
                for found in table.differences(cell):
                    yield "difference", found
                if table.is_whole(cell.row):
                    yield "row", {"row": cell.row}
        yield "done", {"summary": table.summary()}
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(
    plan: Plan,
    cell: Cell,
    ask: Ask,
    news: queue.SimpleQueue[tuple[str, dict[str, Any]]],
    stopped: threading.Event,
) -> None:
    into, place, error = Read(), cell.as_dict(), None
    column = plan.columns[cell.column]
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": column.model, **plan.prompts[cell.row], **column.parameters, **streamed}
    try:
        _asked(lambda: ask(body), into, lambda piece: news.put(("delta", {**place, **piece})), stopped)
    except Stopped:
        return
    except TunesmithError as refused:
        error = {**refused.as_dict(), "status": refused.status}
    except Exception:  # the edge of the thread: a cell without an answer would never end the comparison
        log.exception("A cell of a comparison failed", extra={"model": column.model})
        error = {**TunesmithError().as_dict(), "status": TunesmithError.status}
    news.put(("answer", {**place, **into.as_dict(), "error": error}))


def _asked(
    send: Callable[[], Answer], into: Read, told: Callable[[dict[str, str]], None], stopped: threading.Event
) -> None:
    """As `read`; while the model has no room for another request it is asked again when it is likely to have some."""
    give_up_at, pause = time.monotonic() + MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS
    while not stopped.is_set():
        try:
            return read(send, into, told, stopped.is_set)
        except Overloaded as error:
            # From within the gateway asking costs nothing: the guess that clients get is the most that is waited.
            pause = min(2 * pause, error.retry_after_seconds or 1)
            if time.monotonic() + pause > give_up_at:
                raise
            stopped.wait(pause)
    raise Stopped


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None
