"""A gateway with a ledger whose models are answered by servers of the test's own (upstream.py), over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import schema
from shared.spec import DeploySpec
from tests.platform import Platform, make_platform
from tests.unit.upstream import Upstream, serving


@dataclass(frozen=True, kw_only=True)
class Served:
    platform: Platform
    #: By the deployment's name.
    upstreams: dict[str, Upstream]

    def compare(self, body: Any, **options: Any) -> Any:
        return self.platform.post("/v1/compare", body, **options)

    def sent(self, name: str) -> list[dict[str, Any]]:
        """The bodies that the replica of this deployment was asked with."""
        return [json.loads(request["body"]) for request in self.upstreams[name].requests]

    def forget(self) -> None:
        for upstream in self.upstreams.values():
            upstream.pieces, upstream.pause_seconds = [], 0.0
            upstream.requests.clear()
            upstream.hung_up.clear()


@contextmanager
def serving_models(home: Path, *names: str, **specs: dict[str, Any]) -> Iterator[Served]:
    """Deployments of these names, each ready with one replica; `specs`: of those that say more than their model."""
    platform = make_platform(home, log_level="ERROR")
    project_id = platform.store.projects.default().id
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(serving(Upstream())) for name in (*names, *specs)}
        for name, upstream in upstreams.items():
            spec = schema.to_wire(schema.load(DeploySpec, {"model": name, **specs.get(name, {})}))
            platform.store.deployments.create(project_id, name=name, model_name=name, spec=spec)
            replica = platform.store.replicas.claim_next("worker", None)
            assert replica is not None
            platform.store.replicas.renew(replica.id, replica.attempt, status="ready", url=upstream.url, api_key="key")
        yield Served(platform=platform, upstreams=upstreams)
    platform.store.close()
