"""Asks the ledger what shared/hosting.py decides on: which deployments could take an adapter, what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from shared import hosting, schema
from shared.adapterfiles import SERVING, AdapterFiles
from shared.errors import Conflict, InvalidSpec
from shared.hosting import Adapter, Host, Placement
from shared.records import Deployment, Model
from shared.spec import DeploySpec
from shared.spec.deploy_hosting import OWN
from shared.store.columns import record
from shared.store.models import find_model
from shared.store.standing import with_replicas
from shared.store.tables import deployments
from shared.tongues import Text


def place(
    connection: Connection,
    project_id: str,
    model_name: str,
    spec: Mapping[str, Any],
    files: AdapterFiles | None = None,
) -> Placement:
    """Where a model is served; `files` of an adapter whose record does not tell them. The caller holds the project's
    row. Raises InvalidSpec"""
    model, asked = find_model(connection, project_id, model_name), spec.get("adapter_host")
    if model is None or model.kind != "adapter" or not model.base_model:
        if asked not in (None, OWN):
            text = "is {host!r}, but {model!r} is no adapter: it has replicas of its own"
            raise InvalidSpec(text, field="adapter_host", host=asked, model=model_name)
        return Placement()
    if (files := files or files_of(model)) is None:
        return Placement()
    wanted = schema.from_stored(DeploySpec, spec)
    adapter = Adapter(name=model.name, base=model.base_model, spec=wanted, files=files)
    return hosting.place(adapter, list(_hosts(connection, project_id)))


def placed_again(
    connection: Connection, before: Deployment, after: Deployment, files: AdapterFiles | None
) -> dict[str, Any]:
    """The new values of a hosted deployment whose spec changes; another adapter answers as soon as it is loaded.

    Raises: Conflict when it shall be elsewhere, InvalidSpec when the new one does not fit where it is
    """
    adapter = _adapter(connection, after, files)
    host = next((one for one in _hosts(connection, before.project_id) if one.deployment.id == before.host_id), None)
    if adapter is None or host is None or adapter.spec.hosting.adapter_host not in (None, before.host_name):
        text = "Deployment {name!r} stays an adapter on the replicas of {host!r}: deploy the other under another name"
        raise Conflict(text, name=before.name, host=before.host_name)
    if (why := hosting.misfit(adapter, host)) is not None:
        text = "is {model!r}: its host {host!r} {why}; deploy it under another name"
        raise InvalidSpec(text, field="model", model=adapter.name, host=before.host_name, why=why)
    told: dict[str, Any] = {"carries": hosting.carries(adapter, host)}
    if previous := _answering(before) if adapter.name != before.model_name else before.hosting.get("previous"):
        told["previous"] = previous
    generation = before.generation + (after.spec != before.spec)
    return {"spec": after.spec, "model_name": adapter.name, "hosting": told, "generation": generation}


def check_guests(connection: Connection, after: Deployment) -> None:
    """Raises: Conflict when adapters on its replicas would not answer as they do, once its spec has changed"""
    host = _host(connection, replace(after, replicas=[]))
    query = select(deployments).where(deployments.c.host_id == after.id, deployments.c.wanted == "running")
    for row in connection.execute(query).mappings():
        guest = record(Deployment, row)
        adapter = _adapter(connection, guest)
        why: str | None = None
        if host is None or adapter is None:
            why = Text("would not be known to fit")
        elif (why := hosting.misfit(adapter, host)) is None and hosting.carries(adapter, host) != _carried(guest):
            why = Text("would be asked otherwise")
        if why is not None:
            text = "The adapter {guest!r} is on the replicas of {name!r}, which then {why}: delete it first"
            raise Conflict(text, guest=guest.name, name=after.name, why=why)


def _adapter(connection: Connection, deployment: Deployment, files: AdapterFiles | None = None) -> Adapter | None:
    """What is served; None where it is no adapter, or too little is known of it."""
    model = find_model(connection, deployment.project_id, deployment.model_name)
    if model is None or model.kind != "adapter" or not model.base_model or not (files := files or files_of(model)):
        return None
    spec = schema.from_stored(DeploySpec, deployment.spec)
    return Adapter(name=model.name, base=model.base_model, spec=spec, files=files)


def _carried(deployment: Deployment) -> Mapping[str, Any]:
    carried: Mapping[str, Any] = deployment.hosting.get("carries", {})
    return carried


def _answering(deployment: Deployment) -> dict[str, Any]:
    """The adapter that answers now, in the words of `previous`: of two changes at once the first may not be loaded."""
    loaded = any(deployment.model_name in replica.adapters for replica in deployment.host_replicas)
    before: dict[str, Any] | None = deployment.hosting.get("previous")
    if before is not None and not loaded:
        return before
    return {"model_name": deployment.model_name, "carries": _carried(deployment)}


def files_of(model: Model) -> AdapterFiles | None:
    """None: its record does not tell."""
    told = model.config.get(SERVING)
    return AdapterFiles.load(told) if told else None


def _hosts(connection: Connection, project_id: str) -> Iterator[Host]:
    """Deployments with replicas of their own, oldest first."""
    running = deployments.c.project_id == project_id, deployments.c.wanted == "running", deployments.c.host_id.is_(None)
    rows = connection.execute(select(deployments).where(*running).order_by(deployments.c.created_at)).mappings()
    for deployment in with_replicas(connection, [record(Deployment, row) for row in rows]):
        if (host := _host(connection, deployment)) is not None:
            yield host


def _host(connection: Connection, deployment: Deployment) -> Host | None:
    """None where too little is known of it."""
    model, files = find_model(connection, deployment.project_id, deployment.model_name), None
    if model is None:
        return None
    name, config = model.name, model.config
    if model.kind == "adapter":
        base = find_model(connection, deployment.project_id, model.base_model or "")
        name, config = str(model.base_model), base.config if base else {}
        if (files := files_of(model)) is None:
            return None
    spec = schema.from_stored(DeploySpec, deployment.spec)
    return Host(deployment=deployment, spec=spec, base=name, base_config=config, files=files)
