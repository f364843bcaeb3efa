"""Every name that a client may send as `model`, with who answers to it now: models of the catalog, deployments, routes
and aliases. Each stands once; which deployment a name means is shared/routing.py's, so list and answers agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from gateway.services import Services
from shared import routing
from shared.errors import NotFound
from shared.records import Deployment, Model
from shared.routing import Fleet
from shared.store.models import AT

#: A deployment's statuses, what is nearest to an answer first.
NEAREST = ("ready", "idle", "starting", "pending", "stopping", "failed", "stopped")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A name, and what it means."""

    name: str
    #: "deployment", "route" or "alias"; of a model of the catalog its own.
    kind: str
    created_at: datetime
    #: The one that answers; None: several do, or it is not in the catalog.
    model: Model | None
    in_catalog: bool = False
    #: Those that answer to it, or would once they are ready.
    deployments: list[Deployment] = field(default_factory=list)
    #: The best of theirs; None: none is deployed.
    status: str | None = None

    @property
    def answers(self) -> bool:
        """Whether a request is answered now; one that rests is woken by it."""
        return self.status in ("ready", "idle")


class Names:
    """Those of a project, as its ledger says now."""

    def __init__(self, services: Services, project_id: str) -> None:
        self._store, self._project_id = services.store, project_id
        self._running = routing.fleet(services.store, project_id)
        self._version = partial(routing.version, services.store, project_id)

    def of_models(self, models: list[Model]) -> Iterator[Named]:
        """Of the catalog: as many as there are models."""
        for model in models:
            yield self._named(model.name, model.kind, model.created_at, model=model, in_catalog=True)

    def others(self, models: list[Model]) -> Iterator[Named]:
        """Beside those of the catalog, all of which `models` are: deployments, routes, and deployed aliases."""
        taken = {model.name for model in models}
        for name, kind, created_at in self._others(models):
            if name not in taken:
                taken.add(name)
                yield self._named(name, kind, created_at)

    def other(self, name: str) -> Named | None:
        """One by its name, also as `base@adapter`; None: nothing that is wanted has it."""
        meant = [deployment for deployment, _ in routing.shares(self._running, name, self._version)]
        route = next((route for route in self._running.routes if route.name == name), None)
        if route is not None and name not in {deployment.name for deployment in meant}:
            return self._named(name, "route", route.created_at)
        return self._named(name, "deployment", meant[0].created_at) if meant else None

    def _others(self, models: list[Model]) -> Iterator[tuple[str, str, datetime]]:
        for deployment in self._running.deployments:
            yield deployment.name, "deployment", deployment.created_at
        for route in self._running.routes:
            yield route.name, "route", route.created_at
        for model in models:
            for alias in model.aliases:
                name = f"{model.family or model.name}{AT}{alias}"
                if routing.shares(self._running, name, self._version):
                    yield name, "alias", model.created_at

    def _named(
        self, name: str, kind: str, created_at: datetime, model: Model | None = None, in_catalog: bool = False
    ) -> Named:
        meant = [deployment for deployment, _ in routing.shares(self._running, name, self._version)]
        if model is None and len(served := {deployment.model_name for deployment in meant}) == 1:
            model = self._model(served.pop())
        return Named(
            name=name,
            kind=kind,
            created_at=created_at,
            model=model,
            in_catalog=in_catalog,
            deployments=meant,
            status=_status(self._running, meant),
        )

    def _model(self, name: str) -> Model | None:
        try:
            return self._store.models.get(self._project_id, name)
        except NotFound:
            return None  # deleted since


def _status(running: Fleet, meant: list[Deployment]) -> str | None:
    """The best that one of them is in; ready only where a replica answers for it."""
    told = {"ready" if routing.endpoints(running, one) else one.status for one in meant}
    return next((status for status in NEAREST if status in told), None)


def named_json(named: Named) -> dict[str, Any]:
    """What is said beside a model's own members."""
    return {
        "in_catalog": named.in_catalog,
        "served_by": [deployment.name for deployment in named.deployments],
        "status": named.status,
        "answers": named.answers,
    }
