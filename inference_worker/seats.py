"""Who answers to the names that the rows of a generation job ask, with how many requests each replica works on at once:
written down for the job's child.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inference_worker.child.replicas import FILE, Replica, Target
from inference_worker.engines import transformers_server
from shared import engines, requirements, routing
from shared.job import Job, Kind, Status
from shared.records import Deployment, Worker
from shared.routing import Fleet

if TYPE_CHECKING:
    from shared.store import Store

#: Member of a job's request: its rows are lines of a batch, which say all of what they want.
BATCH = "batch"
#: Member of a deployment's spec: generation parameters for requests that do not say them.
DEFAULTS = "generation"
#: What vLLM takes on at once where the deployment does not say: on a CPU, on a card, on one with much memory.
OF_CPU, OF_CARD, OF_LARGE_CARD = 128, 256, 1024
LARGE_GIB = 70.0
OF_ENGINE = {"transformers": transformers_server.NUM_SEQS}


def tell(store: Store, job: Job, models: Iterable[str], folder: Path) -> None:
    """Whole or not at all: the child may be reading."""
    project_id, has_defaults = job.project_id, BATCH in job.request
    running = routing.fleet(store, project_id)
    workers = {worker.id: worker for worker in store.workers.list()}
    versions = partial(routing.version, store, project_id)
    rivals = shared_by(running, store.jobs.list(project_id, kind=Kind.GENERATE, status=Status.RUNNING), versions)
    told = {
        model: [
            asdict(target) for target in targets(running, model, workers, versions, rivals, has_defaults=has_defaults)
        ]
        for model in models
    }
    beside = folder / f"{FILE}.part"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(told, file)
    os.replace(beside, folder / FILE)


def wake(store: Store, project_id: str, models: Iterable[str]) -> None:
    """Rows do not pass the gateway: a deployment that is only asked by them must not go to sleep, and is woken."""
    running = routing.fleet(store, project_id)
    versions = partial(routing.version, store, project_id)
    asked = {found.id for model in models for found, _ in routing.shares(running, model, versions)}
    for deployment_id in asked:
        store.deployments.asked(project_id, deployment_id)


def shared_by(fleet: Fleet, jobs: Iterable[Job], versions: routing.Versions) -> Counter[str]:
    """How many jobs ask the replicas of each deployment now."""
    counts: Counter[str] = Counter()
    for job in jobs:
        models = (job.request.get(BATCH) or {}).get("models") or [job.spec.get("model") or ""]
        asked = [found for model in models for found, _ in routing.shares(fleet, model, versions)]
        counts.update({host.id for found in asked if (host := routing.holder(fleet, found)) is not None})
    return counts


def targets(
    fleet: Fleet,
    model: str,
    workers: Mapping[str, Worker],
    versions: routing.Versions,
    rivals: Mapping[str, int],
    *,
    has_defaults: bool,
) -> list[Target]:
    """The deployments that answer to a name, with those of their replicas that are ready, whose seats the jobs share
    that ask them. `has_defaults`: what rows do not say is the deployments' to decide."""
    found = []
    for deployment, weight in routing.shares(fleet, model, versions):
        host = routing.holder(fleet, deployment) or deployment
        replicas = [
            Replica(
                id=one.id,
                url=one.url,
                api_key=one.api_key,
                served_name=one.served_name,
                seats=-(-seats(host, one.id, workers) // max(1, rivals.get(host.id, 1))),
                carries=one.carries,
                beams_heed=host.spec.get("engine") == engines.TRANSFORMERS,
            )
            for one in routing.endpoints(fleet, deployment)
        ]
        defaults = (deployment.spec.get(DEFAULTS) or {}) if has_defaults else {}
        found.append(Target(deployment_id=deployment.id, weight=weight, defaults=defaults, replicas=replicas))
    return found


def seats(deployment: Deployment, replica_id: str, workers: Mapping[str, Worker]) -> int:
    """As the deployment says, else what its engine takes on, on the machine that the replica runs on."""
    told = deployment.spec.get("max_num_seqs")
    if told := told or OF_ENGINE.get(deployment.spec.get("engine", "")):
        return int(told)
    worker_id = next((one.worker_id for one in deployment.replicas if one.id == replica_id), None)
    worker = workers.get(worker_id or "")
    cards = [device for device in requirements.of_worker(worker) if device.is_gpu] if worker else []
    if not cards:
        return OF_CPU
    is_large = all(card.size_gib >= LARGE_GIB and "A100" not in (card.kind or "").upper() for card in cards)
    return OF_LARGE_CARD if is_large else OF_CARD
