"""Replicas as their workers claim them and get them ready."""

from __future__ import annotations

from shared.records import Replica
from shared.store import Store


def claimed(store: Store, worker_id: str = "w1") -> Replica:
    replica = store.replicas.claim_next(worker_id, "store-1")
    assert replica is not None
    return replica


def ready(store: Store) -> Replica:
    replica = claimed(store)
    store.replicas.renew(replica.id, replica.attempt, status="ready", url="http://127.0.0.1:9", api_key="k", load=2.0)
    return replica


def answering(store: Store, project_id: str | None = None) -> list[Replica]:
    """Those that requests are sent to, of one project or of all."""
    there = store.replicas.list(project_id)
    return [replica for replica in there if (replica.status, replica.wanted) == ("ready", "running")]
