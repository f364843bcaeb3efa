"""Rows on their way: sent to replicas by as many threads as have a seat there, and what comes back taken down by one.

A row is asked again when its replica went away or was too busy; what the replica itself refuses (a prompt longer than
the context) is the row's answer.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from inference_worker.child.answers import OK, Answers
from inference_worker.child.dispatch import MAX_AT_ONCE, Dispatch, Errand
from inference_worker.child.replicas import Connections, Known, Lost, Reply, Unreached
from shared import answer_room, sampling, schema
from shared.answer_room import TOKENIZE
from shared.bulk import Row
from shared.errors import InvalidSpec

log = logging.getLogger(__name__)

#: A row with which so many replicas were lost, or that so many could not answer, is given up.
MAX_TRIES = 3
#: A replica that has no room, or does not know the model any more, is left alone for so long, and its row given up
#: after so many times.
PAUSE_SECONDS = 1.0
MAX_PAUSES = 600
BUSY, NOT_OURS = (429, 503), (401, 404)


@dataclass(frozen=True, kw_only=True)
class Landed:
    errand: Errand
    #: Any other exception than Lost and Unreached is the row's own failure.
    outcome: Reply | Exception


class Asking:
    def __init__(self, dispatch: Dispatch, known: Known, answers: Answers, job_id: str):
        """`job_id` is what each row's request is called by, with the number of its line."""
        self._job_id = job_id
        self._dispatch = dispatch
        self._known = known
        self._answers = answers
        self._connections = Connections()
        self._pool = ThreadPoolExecutor(max_workers=MAX_AT_ONCE, thread_name_prefix="row")
        self._landed: SimpleQueue[Landed] = SimpleQueue()
        #: By custom id of the row.
        self._flying: dict[str, Errand] = {}
        self._tries: Counter[str] = Counter()
        self._pauses: Counter[str] = Counter()

    @property
    def flying(self) -> list[Row]:
        return [errand.row for errand in self._flying.values()]

    def send(self) -> None:
        """A row for every seat that is free."""
        for errand in self._dispatch.errands():
            self._flying[errand.row.custom_id] = errand
            self._pool.submit(self._ask, errand)

    def collect(self, seconds: float) -> None:
        """Take down what has come back; waits that long for the first."""
        for landed in self._arrivals(seconds):
            self._flying.pop(landed.errand.row.custom_id)
            self._dispatch.landed(landed.errand)
            self._take_down(landed.errand, landed.outcome)

    def close(self) -> None:
        """Threads that wait for an answer are left to the end of the process, which is near."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _arrivals(self, seconds: float) -> Iterator[Landed]:
        try:
            yield self._landed.get(timeout=seconds)
            while True:
                yield self._landed.get_nowait()
        except Empty:
            return

    def _ask(self, errand: Errand) -> None:
        """In a thread of the pool."""
        replica = errand.replica
        outcome: Reply | Exception
        try:
            outcome = self._reply(errand)
            # An engine that has just died answers like this too, for every row that it had.
            if outcome.status >= 500 and outcome.status not in BUSY and not self._connections.is_well(replica):
                outcome = Lost(f"it answered {outcome.status} and is not well")
        except (Lost, Unreached) as error:
            outcome = error
        except Exception as error:  # the edge of the thread: a row that does not land is waited for for ever
            told = {"job_id": self._job_id, "custom_id": errand.row.custom_id, "replica_id": replica.id}
            log.exception("Row %s could not be asked", errand.row.custom_id, extra=told)
            outcome = error
        self._landed.put(Landed(errand=errand, outcome=outcome))

    def _reply(self, errand: Errand) -> Reply:
        """What the replica says, after it has counted the prompt where `max_length` does. Raises Lost, Unreached."""
        row, replica, request_id = errand.row, errand.replica, f"{self._job_id}-{errand.row.line}"
        # How tokens are drawn was looked at with the row; what else it says, only now with what its deployment says.
        if wrong := list(sampling.conflicts(row.said(errand.defaults), beams_heed=replica.beams_heed, own={})):
            return _refused(schema.refusal(wrong))
        asked, room = (
            row.request(replica.served_name, errand.defaults, replica.carries),
            answer_room.of(row.said(errand.defaults)),
        )
        if room.max_length is not None:
            try:
                count = answer_room.num_tokens(asked)
                if count is None:
                    counted = self._connections.post(replica, TOKENIZE, answer_room.question(asked), request_id)
                    if counted.status != OK:
                        return counted
                    count = int(json.loads(counted.body)["count"])
                asked = answer_room.limited(asked, row.path, count, room.max_length)
            except InvalidSpec as error:
                return _refused(error)
        reply = self._connections.post(replica, row.path, json.dumps(asked).encode(), request_id)
        return reply if reply.status != OK else replace(reply, body=answer_room.told(reply.body, room))

    def _take_down(self, errand: Errand, outcome: Reply | Exception) -> None:
        row, replica_id = errand.row, errand.replica.id
        if isinstance(outcome, Unreached):
            self._known.eject(replica_id)
            self._dispatch.retry(row)
        elif isinstance(outcome, Lost):
            self._known.eject(replica_id)
            self._dispatch.losses[row.custom_id] += 1
            if self._dispatch.losses[row.custom_id] < MAX_TRIES:
                self._dispatch.retry(row)
            else:
                self._answers.add(row, 0, _told("upstream_lost", f"{MAX_TRIES} replicas were lost with this row"))
        elif isinstance(outcome, Exception):
            self._answers.add(row, 0, _told("internal_error", f"{type(outcome).__name__}: {outcome}"[:1000]))
        elif outcome.status in (*BUSY, *NOT_OURS) and self._pauses[row.custom_id] < MAX_PAUSES:
            self._pauses[row.custom_id] += 1
            self._known.eject(replica_id, PAUSE_SECONDS)
            self._dispatch.retry(row)
        elif outcome.status >= 500 and self._tries[row.custom_id] < MAX_TRIES - 1:
            self._tries[row.custom_id] += 1
            self._dispatch.retry(row)
        else:
            self._answer(row, outcome)

    def _answer(self, row: Row, reply: Reply) -> None:
        try:
            body = json.loads(reply.body)
        except ValueError:
            self._answers.add(row, 502, _told("bad_answer", reply.body.decode(errors="replace")[:1000]))
            return
        if reply.status == OK and isinstance(body, dict) and "model" in body:
            body["model"] = row.model
        self._answers.add(row, reply.status, body, request_id=body.get("id") if isinstance(body, dict) else None)


def _told(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


def _refused(error: InvalidSpec) -> Reply:
    return Reply(status=error.status, body=json.dumps({"error": error.as_dict()}).encode())
