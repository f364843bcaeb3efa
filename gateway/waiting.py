"""What the replicas of a deployment wait for, where no worker has taken them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway import suitors
from gateway.services import Services
from shared import fitting, rollout
from shared.records import Deployment, Worker
from shared.tongues import Text


def reason(services: Services, deployment: Deployment) -> Text | None:
    """None: nothing waits, or a worker takes it within seconds."""
    pending = [one for one in deployment.replicas if one.status == "pending" and one.wanted == "running"]
    if not pending:
        return None
    workers = [worker for worker in suitors.alive(services) if suitors.REPLICA in worker.kinds]
    if not workers:
        return Text("No inference worker reports itself: replicas wait until one does.")
    spec, count = pending[0].spec, fitting.num_devices(pending[0].spec)
    able = [worker for worker in workers if _has_enough(spec, worker)]
    if not able:
        if named := spec.get("gpus"):
            text = "No inference worker has {count} of the GPUs {names}: replicas wait until one does."
            return Text(text, count=count, names=", ".join(named))
        return Text("No inference worker has {count} GPUs: replicas wait until one does.", count=count)
    if any(fitting.fits(spec, _gpus(worker), 0, _free(worker)) for worker in able):
        return None
    text = "All GPUs that it may have are taken: replicas wait until {count} of one machine are free.{advice}"
    advice: str = ""
    is_update = (deployment.rollout or {}).get("status") == rollout.RUNNING
    if is_update and deployment.spec.get("update_order") != rollout.STOP_FIRST:
        advice = Text(" The old spec goes on; update_order stop-first stops it first.")
    return Text(text, count=count, advice=advice)


def _has_enough(spec: Mapping[str, Any], worker: Worker) -> bool:
    return fitting.fits(spec, _gpus(worker), 0, _gpus(worker))


def _gpus(worker: Worker) -> Sequence[str]:
    return [name for name in worker.devices if name != fitting.CPU]


def _free(worker: Worker) -> list[str]:
    held = {device["id"] for device in worker.machine.get("devices", ()) if device.get("held_by")}
    return [name for name in _gpus(worker) if name not in held]
