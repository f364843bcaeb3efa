"""How many rows each replica gets at once, and what rows hear of who answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from inference_worker import seats
from shared.job import Job, Kind, Status, Wanted
from shared.records import Worker
from shared.routing import Fleet
from tests.unit.fleet import NOW, deployment, replica


def worker(*cards: tuple[str, float]) -> Worker:
    devices = [{"id": f"GPU-{n}", "kind": kind, "memory_gib": gib} for n, (kind, gib) in enumerate(cards)]
    return Worker(
        id="w", kinds=["replica"], host="h", devices=[str(one["id"]) for one in devices] or ["cpu"], storage_id="s",
        labels=[], metrics_url=None, version="1", started_at=NOW, seen_at=NOW, machine={"devices": devices},
    )  # fmt: skip


def job(**given: Any) -> Job:
    made = {"spec": {}, "kind": Kind.GENERATE, "status": Status.RUNNING, "wanted": Wanted.RUN}
    return Job(id="generate-1", project_id="proj-1", created_at=datetime(2026, 1, 2, tzinfo=UTC), **made | given)


@pytest.mark.parametrize(
    ("spec", "cards", "expected"),
    [
        ({"max_num_seqs": 7}, [("NVIDIA H100 80GB HBM3", 79.6)], 7),
        ({}, [], 128),
        ({"engine": "vllm"}, [("NVIDIA L4", 22.0)], 256),
        ({}, [("NVIDIA H100 80GB HBM3", 79.6)], 1024),
        ({}, [("NVIDIA A100-SXM4-80GB", 79.3)], 256),
        ({"engine": "transformers"}, [], 32),
    ],
)
def test_seats_are_what_the_engine_takes_on(
    spec: dict[str, Any], cards: list[tuple[str, float]], expected: int
) -> None:
    served = deployment("smol", [replica("a", "http://a", "smol")], spec=spec)
    assert seats.seats(served, "a", {"w": worker(*cards)}) == expected


def test_jobs_share_the_seats_of_the_replicas_that_they_ask() -> None:
    host = deployment("base", [replica("a", "http://a", "base", adapters=["tuned"])], spec={"max_num_seqs": 9})
    tuned = deployment("tuned", host_id=host.id, spec={"generation": {"temperature": 0.1}})
    fleet = Fleet(deployments=[host, tuned, deployment("other", [replica("b", "http://b", "other")])])
    running = [job(spec={"model": "base"}), job(request={"batch": {"models": ["tuned", "base"]}}), job(spec={})]

    rivals = seats.shared_by(fleet, running, lambda name: None)

    assert rivals == {"dep-base": 2}
    [asked] = seats.targets(fleet, "tuned", {}, lambda name: None, rivals, has_defaults=True)
    assert [(one.id, one.served_name, one.seats) for one in asked.replicas] == [("a", "tuned", 5)]
    assert (asked.deployment_id, asked.defaults) == ("dep-tuned", {"temperature": 0.1})
    [alone] = seats.targets(fleet, "other", {}, lambda name: None, rivals, has_defaults=False)
    assert alone.replicas[0].seats == 128
