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
