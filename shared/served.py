"""The records of what is served: deployments, their replicas, routes and presets. shared/records.py has the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One vLLM process that a deployment wants, and what became of it."""

    id: str
    project_id: str
    deployment_id: str
    deployment_name: str
    ordinal: int
    model_name: str
    #: What the vLLM server calls the model.
    served_name: str
    #: The deployment's, of the generation that it is of.
    spec: dict[str, Any]
    #: "starting", "ready", "failed" or "stopping" while a worker has it, "pending", "failed" or "stopped" else.
    status: str
    #: "running" or "stopped".
    wanted: str
    attempt: int
    beat: int
    #: None: nobody has it.
    worker_id: str | None
    url: str | None
    api_key: str | None = field(repr=False)
    #: Requests that the server works on or keeps waiting.
    load: float
    error: str | None
    log_tail: str | None
    #: Holders in a row that were lost, or gave up, before it got ready.
    num_failures: int
    created_at: datetime
    #: Of the deployment's spec that it serves, or is to.
    generation: int = 1
    #: Since when it answers; None: it does not.
    ready_at: datetime | None = None
    #: Names under which it answers with adapters that are loaded.
    adapters: list[str] = field(default_factory=list)
    #: Why an adapter that is wanted is not loaded, by its name.
    adapter_errors: dict[str, str] = field(default_factory=dict)
    #: Of the adapters that it takes; None: it takes none, or is not up yet.
    max_lora_rank: int | None = None


class HeldReplica(NamedTuple):
    replica_id: str
    attempt: int
    beat: int
    worker_id: str


@dataclass(frozen=True, kw_only=True)
class Deployment:
    id: str
    project_id: str
    name: str
    model_name: str
    spec: dict[str, Any]
    #: "running" or "stopped".
    wanted: str
    #: Of the spec: another one when it changes in what a running replica cannot take over.
    generation: int
    created_at: datetime
    #: The deployment on whose replicas its adapter is loaded; None: it has replicas of its own.
    host_id: str | None = None
    #: Replicas that its load wants now; None: as many as its spec says.
    num_wanted: int | None = None
    #: When a request last named it, to within seconds.
    asked_at: datetime | None = None
    #: The last change of the spec: {"status": "running", "done" or "rolled_back", "generation", "changed": {name:
    #: [before, after]}, "started_at", "ended_at", "error"}, and while it runs "before": {"generation", "spec",
    #: "model_name"}, which goes on serving until the new generation does.
    rollout: dict[str, Any] | None = None
    #: Of an adapter (shared/hosting.py): `why` it is where it is, what requests to it carry beside what they say, and
    #: the `previous` one, which answers until the new one is loaded.
    hosting: dict[str, Any] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    #: Of the deployment on whose replicas its adapter is loaded.
    host_name: str | None = None
    host_num_wanted: int | None = None
    host_replicas: list[Replica] = field(default_factory=list)

    @property
    def answering(self) -> list[str]:
        """Names under which replicas of its host answer for it, the one that is wanted first."""
        previous = self.hosting.get("previous")
        return [self.model_name, *([previous["model_name"]] if previous else [])]

    @property
    def adapter_error(self) -> str | None:
        """Why its adapter is not loaded on some replica of its host."""
        told = (replica.adapter_errors.get(self.model_name) for replica in self.host_replicas)
        return next((error for error in told if error), None)

    @property
    def error(self) -> str | None:
        """What is wrong with the first replica, its own or its host's, with which something is."""
        told = (replica.error for replica in (self.replicas or self.host_replicas) if replica.status != "stopped")
        return self.adapter_error or next((error for error in told if error), None)

    @property
    def status(self) -> str:
        """pending, starting, ready, failed, idle, stopping or stopped: what its replicas, or its host's, come to."""
        if self.host_id is not None:
            return self._hosted_status()
        live = [replica.status for replica in self.replicas if replica.status != "stopped"]
        if self.wanted == "stopped":
            return "stopping" if live else "stopped"
        if self.num_wanted == 0 and not live:
            return "idle"
        return _most(live)

    def _hosted_status(self) -> str:
        if self.wanted == "stopped":
            return "stopped"
        live = [replica for replica in self.host_replicas if replica.status != "stopped"]
        ready = [replica for replica in live if replica.status == "ready"]
        if any(name in replica.adapters for replica in ready for name in self.answering):
            return "ready"
        if ready:
            return "failed" if self.adapter_error else "starting"
        if self.host_num_wanted == 0 and not live:
            return "idle"
        return _most([replica.status for replica in live])


def _most(statuses: Collection[str]) -> str:
    """What a deployment with replicas of these statuses has come to."""
    return next(
        (word for word in ("ready", "starting", "stopping", "pending", "failed") if word in statuses), "pending"
    )


@dataclass(frozen=True, kw_only=True)
class Guest:
    """An adapter that is wanted on the replicas of another deployment."""

    deployment_id: str
    #: Of the deployment.
    name: str
    model_name: str
    #: Answers until `model_name` is loaded; None: nothing does.
    previous: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeploymentEvent:
    deployment_id: str
    #: Counted up within the deployment.
    number: int
    #: None: of the deployment as a whole.
    replica_id: str | None
    level: str
    #: What happened, for machines: "starting", "ready", "failed" ...
    type: str
    message: str
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Route:
    """A name that stands for deployments, which share its requests by weight."""

    name: str
    #: [{"model": name, "weight": number}]
    targets: list[dict[str, Any]]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Generation parameters under a name."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    created_at: datetime
    updated_at: datetime
