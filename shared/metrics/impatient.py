"""Asks what may not answer, for as long as a scrape can wait: Prometheus gives up after ten seconds, and then every
metric of the process is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: A connection to a PostgreSQL that is gone takes up to 10 s, one to a network that is gone longer.
WAIT_SECONDS = 4.0
#: For so long one that hangs is taken as the answer to all who ask; then another is tried beside it.
HANGS_SECONDS = 30.0


class Impatient:
    def __init__(
        self,
        wait_seconds: float = WAIT_SECONDS,
        hangs_seconds: float = HANGS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._wait_seconds = wait_seconds
        self._hangs_seconds = hangs_seconds
        self._clock = clock
        #: The one that did not answer in time, and when that was found.
        self._hanging: tuple[Future[Any], float] | None = None

    def ask(self, question: Callable[[], T]) -> T:
        """Its answer, or what it raises. Raises: TimeoutError, at once while an earlier one still hangs"""
        hanging = self._hanging
        if hanging is not None and not hanging[0].done() and self._clock() - hanging[1] < self._hangs_seconds:
            raise TimeoutError("an earlier question is not answered yet")
        answer: Future[T] = Future()
        threading.Thread(target=_answer, args=(question, answer), name="impatient", daemon=True).start()
        try:
            return answer.result(self._wait_seconds)
        except TimeoutError:
            if not answer.done():
                self._hanging = answer, self._clock()
            raise


def _answer(question: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(question())
    except Exception as error:  # the edge of a thread: whoever waits raises it
        answer.set_exception(error)
