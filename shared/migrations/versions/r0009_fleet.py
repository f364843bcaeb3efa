"""Adapters on the replicas of their base, replicas by load, what happened to deployments, routes and presets."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")
MOMENT = DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("deployments", Column("host_id", Text()))
    op.add_column("deployments", Column("num_wanted", Integer()))
    op.add_column("deployments", Column("asked_at", MOMENT))
    op.create_index("ix_deployments_host_id", "deployments", ["host_id"])
    op.add_column("replicas", Column("adapters", JSON_, nullable=False, server_default=text("'[]'")))
    op.add_column("replicas", Column("adapter_errors", JSON_, nullable=False, server_default=text("'{}'")))
    op.create_table(
        "deployment_events",
        Column("deployment_id", Text(), nullable=False),
        Column("number", Integer(), nullable=False),
        Column("replica_id", Text()),
        Column("level", Text(), nullable=False),
        Column("type", Text(), nullable=False),
        Column("message", Text(), nullable=False),
        Column("data", JSON_, nullable=False),
        Column("created_at", MOMENT, nullable=False),
        ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name="fk_deployment_events_deployment_id"),
        PrimaryKeyConstraint("deployment_id", "number", name="pk_deployment_events"),
    )
    _named("routes", Column("targets", JSON_, nullable=False))
    _named("presets", Column("description", Text()), Column("parameters", JSON_, nullable=False))


def _named(table: str, *columns: Column[object]) -> None:
    op.create_table(
        table,
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        *columns,
        Column("created_at", MOMENT, nullable=False),
        Column("updated_at", MOMENT, nullable=False),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name=f"fk_{table}_project_id"),
        PrimaryKeyConstraint("project_id", "name", name=f"pk_{table}"),
    )


def downgrade() -> None:
    for table in ("presets", "routes", "deployment_events"):
        op.drop_table(table)
    for name in ("adapter_errors", "adapters"):
        op.drop_column("replicas", name)
    op.drop_index("ix_deployments_host_id", "deployments")
    for name in ("asked_at", "num_wanted", "host_id"):
        op.drop_column("deployments", name)
