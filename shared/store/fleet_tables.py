"""Further tables of the ledger about what is served; shared/store/tables.py has deployments and replicas."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, Table

from shared.store.columns import Json, Moment, Words
from shared.store.tables import metadata

#: What happened to a deployment and its replicas, newest last by `number`, which counts up within the deployment.
deployment_events = Table(
    "deployment_events",
    metadata,
    Column("deployment_id", Words, ForeignKey("deployments.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("replica_id", Words),
    Column("level", Words, nullable=False),
    Column("type", Words, nullable=False),
    Column("message", Words, nullable=False),
    Column("data", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
)

#: Names that stand for deployments: one, or several that share the requests by weight.
routes = Table(
    "routes",
    metadata,
    Column("project_id", Words, ForeignKey("projects.id"), primary_key=True),
    Column("name", Words, primary_key=True),
    #: [{"model": name, "weight": number}]
    Column("targets", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

#: Generation parameters under a name.
presets = Table(
    "presets",
    metadata,
    Column("project_id", Words, ForeignKey("projects.id"), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("description", Words),
    Column("parameters", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)
