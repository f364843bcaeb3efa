"""Which replicas may answer to a name, for gateways and for generation in bulk: pure functions of what the ledger says.

A name is that of a running deployment, of a route, of a served model or one of its versions (`family@3`,
`family@alias`), or `base@adapter`: a deployment, and one whose adapter is loaded on it. Which of several replicas
answers is not decided here (gateway/replicas.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.errors import NotFound
from shared.records import Deployment, Replica, Route
from shared.sharing import drawn
from shared.store.models import AT

if TYPE_CHECKING:
    from shared.store import Store


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What a project has running."""

    #: Those that are wanted, with their replicas.
    deployments: Sequence[Deployment] = ()
    routes: Sequence[Route] = ()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A replica that answers, under the name that it knows."""

    id: str
    url: str
    api_key: str | None = field(repr=False)
    #: What the replica calls the model.
    served_name: str
    #: Requests that it works on or keeps waiting.
    load: float = 0.0
    #: What requests say beside what they say themselves (shared/carried.py).
    carries: Mapping[str, Any] = field(default_factory=dict)


#: The catalog's name of what is called `family@version`; None: no such model.
Versions = Callable[[str], str | None]


def fleet(store: Store, project_id: str) -> Fleet:
    deployments = [found for found in store.deployments.list(project_id) if found.wanted == "running"]
    return Fleet(deployments=deployments, routes=store.routes.list(project_id))


def version(store: Store, project_id: str, name: str) -> str | None:
    """The name in the catalog of what is called `family@version`; None: there is no such model."""
    try:
        return store.models.get(project_id, name).name
    except NotFound:
        return None


def find(fleet: Fleet, name: str, versions: Versions, draw: Callable[[], float] = random.random) -> Deployment | None:
    """The deployment that answers to `name`; of a route's targets the one that `draw`, in [0, 1), falls on."""
    return drawn(shares(fleet, name, versions), draw())


def shares(fleet: Fleet, name: str, versions: Versions) -> list[tuple[Deployment, float]]:
    """Who answers to `name`, each with its weight: one deployment, or the targets of a route."""
    if (found := named(fleet, name, versions)) is not None:
        return [(found, 1.0)]
    route = next((route for route in fleet.routes if route.name == name), None)
    if route is None:
        return []
    targets = [(named(fleet, target["model"], versions), float(target["weight"])) for target in route.targets]
    # A target that is not deployed leaves its share to the others.
    return [(deployment, weight) for deployment, weight in targets if deployment is not None and weight > 0]


def named(fleet: Fleet, name: str, versions: Versions) -> Deployment | None:
    """As `find`, routes left aside."""
    by_name = {deployment.name: deployment for deployment in fleet.deployments}
    if name in by_name:
        return by_name[name]
    base, at, adapter = name.partition(AT)
    if (found := _of_model(fleet, versions(name) if at else name)) is not None or not at:
        return found
    model = versions(adapter) or adapter
    beside = (deployment for deployment in fleet.deployments if adapter == deployment.name)
    named = next(beside, None) or _of_model(fleet, model)
    return named if named is not None and base in _bases(fleet, named) else None


def _of_model(fleet: Fleet, model: str | None) -> Deployment | None:
    return next((deployment for deployment in fleet.deployments if deployment.model_name == model), None)


def _bases(fleet: Fleet, adapter: Deployment) -> set[str]:
    """What stands before the @ of an adapter: its host, or the model that it was trained on."""
    hosts = [deployment for deployment in fleet.deployments if deployment.id == adapter.host_id]
    named = {adapter.spec.get("model")} - {adapter.model_name}
    return {name for host in hosts for name in (host.name, host.model_name)} | {str(name) for name in named if name}


def endpoints(fleet: Fleet, deployment: Deployment) -> list[Endpoint]:
    """The ready replicas that answer for it."""
    host = holder(fleet, deployment)
    if host is deployment:
        return [_endpoint(replica, replica.served_name) for replica in _ready(deployment)]
    previous = deployment.hosting.get("previous", {})
    # Until a new adapter is loaded somewhere the one before it answers.
    for name, told in ((deployment.model_name, deployment.hosting), (previous.get("model_name"), previous)):
        there = [replica for replica in _ready(host) if name in replica.adapters] if host else []
        if there:
            return [_endpoint(replica, str(name), told.get("carries")) for replica in there]
    return []


def holder(fleet: Fleet, deployment: Deployment) -> Deployment | None:
    """Whose replicas answer for it: its own, or those of the deployment that its adapter is loaded on."""
    if deployment.host_id is None:
        return deployment
    return next((found for found in fleet.deployments if found.id == deployment.host_id), None)


def _ready(deployment: Deployment) -> list[Replica]:
    return [one for one in deployment.replicas if one.status == "ready" and one.wanted == "running" and one.url]


def _endpoint(replica: Replica, served_name: str, carries: Mapping[str, Any] | None = None) -> Endpoint:
    return Endpoint(
        id=replica.id,
        url=str(replica.url),
        api_key=replica.api_key,
        served_name=served_name,
        load=replica.load,
        carries=carries or {},
    )
