"""What runs in a project, as the ledger would tell it, for tests without one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shared.records import Deployment, Replica

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def deployment(name: str, replicas: Sequence[Replica] = (), **more: Any) -> Deployment:
    given: dict[str, Any] = {"id": f"dep-{name}", "model_name": name, "spec": {}, "wanted": "running", "generation": 1}
    return Deployment(
        name=name, project_id="proj-1", created_at=NOW, replicas=list(replicas), **given | more
    )  # fmt: skip


def replica(id: str, url: str | None, served_name: str, **more: Any) -> Replica:
    given: dict[str, Any] = {
        "project_id": "proj-1", "deployment_id": f"dep-{served_name}", "deployment_name": served_name, "ordinal": 0,
        "model_name": served_name, "spec": {}, "status": "ready", "wanted": "running", "attempt": 1, "beat": 0,
        "worker_id": "w", "api_key": "secret", "load": 0.0, "error": None, "log_tail": None, "num_failures": 0,
        "created_at": NOW,
    }  # fmt: skip
    return Replica(id=id, url=url, served_name=served_name, **given | more)
