"""Threads of requests: as many as are needed, the warm one first, and none is lost to an error."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from gateway.threads import Threads
from tests.platform import wait_until


def num_threads() -> int:
    return sum(thread.name.startswith("request-") for thread in threading.enumerate())


def test_work_goes_to_the_thread_that_became_idle_last_and_others_are_started_when_all_are_busy() -> None:
    threads, seen, blocked = Threads(8), [], threading.Event()

    def note() -> None:
        seen.append(threading.get_ident())

    before = num_threads()
    threads.run(blocked.wait)
    for count in range(1, 6):
        threads.run(note)
        wait_until(lambda count=count: len(seen) == count, 5, "it was done")
        time.sleep(0.01)  # until it is idle
    assert len(set(seen)) == 1 and num_threads() == before + 2
    blocked.set()
    threads.shutdown()
    wait_until(lambda: num_threads() == before, 5, "all threads have ended")


def test_what_all_threads_are_too_busy_for_waits_its_turn_in_order() -> None:
    seen: list[int] = []
    threads, blocked = Threads(1), threading.Event()
    threads.run(blocked.wait)
    for number in range(5):
        threads.run(partial(seen.append, number))
    assert not seen
    blocked.set()
    wait_until(lambda: len(seen) == 5, 5, "all was done")
    assert seen == [0, 1, 2, 3, 4]
    threads.shutdown()


def test_an_error_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    threads, seen = Threads(1), []
    threads.run(lambda: 1 // 0)
    threads.run(lambda: seen.append(1))
    wait_until(lambda: seen, 5, "the next was done")
    assert "ZeroDivisionError" in caplog.text
    threads.shutdown()
