"""What a generation job adds to the runner: its rows, the replicas that may answer them, and the answers published.

The child knows no ledger, so the ready replicas of its project are written beside its run.json, again and again as
long as the attempt lives. The keys of replicas are in that file: only this user can read it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shared import catalog, ids, routing, schema
from shared.errors import NotFound
from shared.job import HELD, Kind
from shared.lease import LEDGER_AWAY
from shared.records import NewDataset
from shared.spec import GenerateSpec
from shared.work import Finish, Phase, Run

log = logging.getLogger(__name__)

REPLICAS = "replicas.json"
ANSWERS = "answers.jsonl"
TELL_SECONDS = 1.0


class GenerateWork:
    kind = Kind.GENERATE

    def phases(self, run: Run) -> Sequence[Phase]:
        # The worker's own Python: it sends requests and computes nothing.
        argv = (sys.executable, "-m", "inference_worker.child")
        return [Phase(name="generate", argv=argv, needs_devices=False)]

    def run_json(self, run: Run) -> Mapping[str, Any]:
        spec = schema.from_stored(GenerateSpec, run.job.spec)
        dataset = catalog.resolve_dataset(run.store, run.settings, run.job.project_id, spec.dataset)
        tell_replicas(run, spec.model)
        threading.Thread(target=_keep_telling, args=(run, spec.model), name="replicas", daemon=True).start()
        return {"dataset": {"path": dataset.local(run.artifacts), "name": dataset.name}}

    def finish(self, run: Run, done: Mapping[str, Any]) -> Finish:
        sealed = run.artifacts.put_file(run.output / ANSWERS, run.uri(ANSWERS))
        name = f"{run.job.name or run.job.id}.{ANSWERS}"
        answers = NewDataset(
            id=ids.new_id("file-"),
            name=name,
            filename=name,
            purpose="batch_output",
            num_rows=int(done["num_rows"]),
            size_bytes=sealed.size_bytes,
            digest=sealed.digest,
            uri=sealed.uri,
        )
        return Finish(result={**done, "dataset": answers.id, "output_file": answers.id}, datasets=[answers])


def tell_replicas(run: Run, model: str) -> None:
    """Write down who can answer now."""
    store, project_id = run.store, run.job.project_id
    running = routing.fleet(store, project_id)
    deployment = routing.find(running, model, lambda name: routing.version(store, project_id, name))
    told = [asdict(ready) for ready in routing.endpoints(running, deployment)] if deployment else []
    beside = run.folder / f"{REPLICAS}.part"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(told, file)
    os.replace(beside, run.folder / REPLICAS)


def _keep_telling(run: Run, model: str) -> None:
    """Until the attempt is over, however it ended: nothing else tells this thread."""
    while True:
        time.sleep(TELL_SECONDS)
        try:
            job = run.store.jobs.get(run.job.project_id, run.job.id)
            if job.attempt != run.attempt or job.status not in HELD:
                return
            tell_replicas(run, model)
        except LEDGER_AWAY as error:
            log.warning("The ledger cannot be reached: %s", type(error).__name__, extra={"job_id": run.job.id})
        except (NotFound, FileNotFoundError):
            return
