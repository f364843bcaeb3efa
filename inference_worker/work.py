"""What a generation job adds to the runner: its rows, the replicas that may answer them, and the answers published.

The child knows no ledger, so who answers to the names that its rows ask is written beside its run.json, again and again
as long as the attempt lives. The keys of replicas are in that file: only this user can read it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from inference_worker import seats
from inference_worker.child.answers import ANSWERS, ERRORS, merge
from inference_worker.child.generate import MODELS
from inference_worker.seats import BATCH
from shared import catalog, folder, ids, schema
from shared.artifact import CorruptArtifact
from shared.errors import NotFound
from shared.job import HELD, Kind
from shared.lease import LEDGER_AWAY
from shared.records import NewDataset
from shared.spec import GenerateSpec
from shared.spec.generate import seconds_of
from shared.work import Finish, Phase, Run

log = logging.getLogger(__name__)

TELL_SECONDS = 1.0
#: How soon it is heard whom the child's rows ask.
LISTEN_SECONDS = 0.1
#: Between two times that the deployments hear that they are asked.
WAKE_SECONDS = 5.0


class GenerateWork:
    kind = Kind.GENERATE

    def phases(self, run: Run) -> Sequence[Phase]:
        # The worker's own Python: it sends requests and computes nothing.
        argv = (sys.executable, "-m", "inference_worker.child")
        return [Phase(name="generate", argv=argv, needs_devices=False)]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(GenerateSpec, run.job.spec)
        dataset = catalog.dataset_of(run.store, run.settings, run.job, spec.dataset)
        seats.tell(run.store, run.job, [], run.folder)
        threading.Thread(target=_keep_telling, args=(run,), name="replicas", daemon=True).start()
        expires_at = None
        if spec.completion_window is not None:
            expires_at = (run.job.created_at + timedelta(seconds=seconds_of(spec.completion_window))).timestamp()
        return {
            "dataset": dataset.as_input(run.artifacts),
            "as_sent": BATCH in run.job.request,
            "presets": {made.name: made.parameters for made in run.store.presets.list(run.job.project_id)},
            "expires_at": expires_at,
            "published": [str(place) for place in published(run)],
            "journals": [str(place) for place in folder.journals(run.folder)],
        }

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        return _published(run, run.folder / folder.JOURNAL, dict(done))

    def salvage(self, run: Run) -> Finish:
        """The rows that were answered before it was cancelled, or failed."""
        journal = run.folder / folder.JOURNAL
        answered, failed = merge([*published(run), *folder.journals(run.folder)], journal)
        counted = {"num_rows": answered + failed, "num_failed": failed}
        return _published(run, journal, counted) if answered + failed else Finish(result={})


def published(run: Run) -> list[Path]:
    """What earlier attempts have published of their answers, on this machine; what is damaged is asked for again."""
    found = []
    for checkpoint in run.store.checkpoints.list(run.job.project_id, run.job.id):
        with suppress(CorruptArtifact, NotFound):
            found.append(run.artifacts.verified_path(checkpoint.uri, checkpoint.digest))
    return found


def _published(run: Run, journal: Path, result: dict[str, Any]) -> Finish:
    num_failed = int(result["num_failed"])
    counts = {ANSWERS: int(result["num_rows"]) - num_failed, ERRORS: num_failed}
    made = {name: _sealed(run, journal / name, count) for name, count in counts.items() if count}
    named = {"output_file": made.get(ANSWERS), "error_file": made.get(ERRORS)}
    told = {name: dataset.id if dataset else None for name, dataset in named.items()}
    return Finish(result={**result, **told, "dataset": told["output_file"]}, datasets=list(made.values()))


def _sealed(run: Run, path: Path, num_rows: int) -> NewDataset:
    sealed = run.artifacts.put_file(path, run.uri(path.name), adopt=True)
    name = f"{run.job.name or run.job.id}.{path.name}"
    return NewDataset(
        id=ids.new_id("file-"),
        name=name,
        filename=name,
        purpose="batch_output",
        num_rows=num_rows,
        size_bytes=sealed.size_bytes,
        digest=sealed.digest,
        uri=sealed.uri,
    )


def _keep_telling(run: Run) -> None:
    """Until the attempt is over, however it ended: nothing else tells this thread."""
    told: list[str] = []
    told_at = woken_at = float("-inf")
    while True:
        time.sleep(LISTEN_SECONDS)
        try:
            models = _models(run.folder)
            if models == told and time.monotonic() - told_at < TELL_SECONDS:
                continue
            told, told_at = models, time.monotonic()
            job = run.store.jobs.get(run.job.project_id, run.job.id)
            if job.attempt != run.attempt or job.status not in HELD:
                return
            seats.tell(run.store, run.job, models, run.folder)
            if models and told_at - woken_at > WAKE_SECONDS:
                woken_at = told_at
                seats.wake(run.store, run.job.project_id, models)
        except LEDGER_AWAY as error:
            log.warning("The ledger cannot be reached: %s", type(error).__name__, extra={"job_id": run.job.id})
        except (NotFound, FileNotFoundError):
            return


def _models(attempt: Path) -> list[str]:
    """The names that rows of the child still ask; none as long as it reads them."""
    try:
        models: list[str] = json.loads((attempt / MODELS).read_text())
    except FileNotFoundError:
        return []
    return models
