"""Ask ready replicas for an answer to every row, as many at once as keep them busy, and stop where it was wanted to go
on later.

The main thread reads, decides and writes; the threads that wait for answers are those of child/asking.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from inference_worker.child.answers import Answers
from inference_worker.child.asking import Asking
from inference_worker.child.dispatch import Dispatch
from inference_worker.child.pace import Pace
from inference_worker.child.replicas import Known
from inference_worker.child.spool import Spool
from shared import bulk, questions, schema
from shared.attempt import Attempt
from shared.bulk import Row
from shared.errors import ChildFailed
from shared.spec import GenerateSpec
from shared.tongues import Text

#: Read by the worker, which then says who answers to these names.
MODELS = "models.json"
#: A model without a ready replica is given up after this long where the job has no window; a large one takes minutes
#: to load.
MAX_WAIT_SECONDS = 1800.0
TICK_SECONDS = 0.5
PROGRESS_SECONDS = 5.0


class Stopped(Exception):
    """A pause or a cancel is wanted."""


def generate(attempt: Attempt) -> None:
    spec = schema.from_stored(GenerateSpec, attempt.run["spec"])
    warn(attempt, spec)
    answers = Answers(attempt)
    terms = bulk.of_spec(spec, as_sent=bool(attempt.run.get("as_sent")), presets=attempt.run.get("presets") or {})
    named = attempt.run["dataset"]
    rows = questions.read(named, terms) if questions.are_in(named) else bulk.read(Path(named["path"]), terms)
    spool = Spool(Path(attempt.run["scratch_dir"]), rows, answers.done)
    try:
        job = Generation(attempt, spool, answers)
        job.ask_all()
    except Stopped:
        answers.save()
        attempt.stopped(step=len(answers.done))
        return
    finally:
        answers.close()
        spool.close()
    if answers.num_failed == spool.num_rows:
        raise ChildFailed(f"none of the {spool.num_rows} rows could be answered; the error file says why of each")
    attempt.done(
        num_rows=spool.num_rows,
        num_failed=answers.num_failed,
        num_expired=job.num_expired,
        prompt_tokens=answers.prompt_tokens,
        completion_tokens=answers.completion_tokens,
        reasoning_tokens=answers.reasoning_tokens,
        **job.pace.overall(),
    )


def warn(attempt: Attempt, spec: GenerateSpec) -> None:
    if spec.template is not None:
        message = f"template {spec.template!r} is not used: answers follow the template of the deployment"
        attempt.emit("finding", message, level="warning", field="template")


class Generation:
    """The rows of one attempt, until all have an answer or an error."""

    def __init__(self, attempt: Attempt, spool: Spool, answers: Answers):
        self._attempt = attempt
        self._spool = spool
        self._answers = answers
        self._known = Known(attempt.folder)
        self._dispatch = Dispatch(spool, self._known.targets)
        self._asking = Asking(self._dispatch, self._known, answers, str(attempt.run["job_id"]))
        self.pace = Pace()
        self._expires_at: float | None = attempt.run.get("expires_at")
        self._told_at = 0.0
        #: Since when a model has rows that wait and nobody to ask; those of which it was told.
        self._waiting_since: dict[str, float] = {}
        self._told_of: set[str] = set()
        self._models: list[str] = []
        self.num_expired = 0

    def ask_all(self) -> None:
        """Raises Stopped."""
        self._tell_models()
        self._tell()
        try:
            while len(self._answers.done) < self._spool.num_rows:
                if self._attempt.wanted() != "run":
                    raise Stopped
                self._asking.send()
                self._asking.collect(TICK_SECONDS)
                self._answers.save_if_due()
                self._look_at_time()
                if time.monotonic() - self._told_at > PROGRESS_SECONDS:
                    self._tell()
                    self._tell_models()
            self._tell()
        finally:
            self._asking.close()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        numbers = self.pace.measure(self._answers, self._spool.num_rows)
        self._attempt.emit("progress", **numbers, in_flight=self._dispatch.num_flying)

    def _tell_models(self) -> None:
        """Whose rows are left. Whole or not at all: the worker may be reading."""
        flying = {row.model for row in self._asking.flying}
        models = sorted(flying | set(self._dispatch.waiting()))
        if models != self._models:
            self._models = models
            beside = self._attempt.folder / f"{MODELS}.part"
            beside.write_text(json.dumps(models))
            os.replace(beside, self._attempt.folder / MODELS)

    def _look_at_time(self) -> None:
        """Rows whose time is over fail: the whole job's, or those of a model that nobody serves."""
        if self._expires_at is not None and time.time() > self._expires_at:
            self._expire()
            return
        now, waiting = time.monotonic(), [name for name in self._dispatch.waiting() if not self._known.targets(name)]
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        for name, since in self._waiting_since.items():
            if now - since >= TICK_SECONDS and name not in self._told_of:
                self._told_of.add(name)
                call = "POST /v1/deployments"
                message = Text("Waiting for a ready replica of {model!r}: deploy it with {call}", model=name, call=call)
                self._attempt.emit("message", message, level="warning")
            if self._expires_at is None and now - since > MAX_WAIT_SECONDS:
                why = f"no replica of {name!r} was ready for {MAX_WAIT_SECONDS:.0f} s"
                self._fail(self._dispatch.give_up(name), "model_unavailable", why)

    def _expire(self) -> None:
        left = [row for name in self._spool.models for row in self._dispatch.give_up(name)] + self._asking.flying
        self.num_expired = len(left)
        self._fail(iter(left), "batch_expired", "the completion window was over before this row was answered")

    def _fail(self, rows: Iterator[Row], code: str, message: str) -> None:
        for row in rows:
            self._answers.add(row, 0, {"error": {"message": message, "code": code}})
