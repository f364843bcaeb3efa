"""Which workers could take a job, and what is said at the door when none could: it is queued all the same, for one may
come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared import requirements
from shared.advice.finding import Finding, Origin, info, warning
from shared.job import Kind
from shared.records import Worker
from shared.requirements import Device
from shared.tongues import Text

if TYPE_CHECKING:
    from gateway.services import Services

#: What a worker that serves deployments says of itself.
REPLICA = "replica"
#: Workers that a sentence names.
MAX_NAMED = 4


def alive(services: Services) -> list[Worker]:
    workers = services.store.workers.list()
    return [worker for worker in workers if worker.age_seconds < services.settings.lease_seconds]


def serving(services: Services) -> list[Device]:
    """Devices of the machines that serve deployments now."""
    workers = [worker for worker in alive(services) if REPLICA in worker.kinds]
    return [device for worker in workers for device in requirements.of_worker(worker)]


def could_take(worker: Worker, kind: str, requires: Mapping[str, Any]) -> bool:
    """With all of its devices free."""
    labels, storage_id = set(requires.get("labels") or ()), requires.get("storage_id")
    return (
        kind in worker.kinds
        and labels <= set(worker.labels)
        and storage_id in (None, worker.storage_id)
        and requirements.are_met(requires, requirements.of_worker(worker))
    )


def remarks(services: Services, kind: str, requires: Mapping[str, Any]) -> Iterator[Finding]:
    workers = [worker for worker in alive(services) if kind in worker.kinds]
    field = (
        "num_processes"
        if kind == Kind.TRAIN and requires.keys() <= {"num_devices", "num_nodes"}
        else requirements.FIELD
    )
    able = sum(could_take(worker, kind, requires) for worker in workers)
    if not workers:
        text = Text("No {kind} worker reports itself: the job waits until one does.", kind=kind)
        yield info(field, Origin.ESTIMATE, text)
    elif not able:
        yield warning(field, Origin.ESTIMATE, unmet(requires, workers), "Ask for less, or start such a worker.")
    elif able < (wanted := requires.get("num_nodes", 1)):
        told = "{wanted} workers with as many devices are wanted, {able} report themselves: the job waits for more."
        text = Text(told, wanted=wanted, able=able)
        yield warning("num_nodes", Origin.ESTIMATE, text, Text("Set num_nodes to at most {most}.", most=able))


def unmet(requires: Mapping[str, Any], workers: Sequence[Worker]) -> Text:
    text = "No worker has {wanted}: the job waits for one. There is {workers}."
    return Text(text, wanted=requirements.described(requires), workers=_named(workers))


def _named(workers: Sequence[Worker]) -> str:
    told = [f"{worker.id} ({_what(worker)})" for worker in workers[:MAX_NAMED]]
    more = len(workers) - MAX_NAMED
    return ", ".join([*told, *([f"+{more}"] if more > 0 else [])])


def _what(worker: Worker) -> str:
    return ", ".join([requirements.counted(requirements.of_worker(worker)), *worker.labels])
