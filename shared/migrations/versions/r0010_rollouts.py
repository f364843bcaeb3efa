"""Replicas with the spec of their own generation, and how the last change of a deployment's spec goes."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, DateTime, Text, text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")
OF_DEPLOYMENT = "(SELECT {column} FROM deployments WHERE deployments.id = replicas.deployment_id)"


def upgrade() -> None:
    op.add_column("deployments", Column("rollout", JSON_))
    op.add_column("replicas", Column("spec", JSON_, nullable=False, server_default=text("'{}'")))
    op.add_column("replicas", Column("model_name", Text(), nullable=False, server_default=text("''")))
    op.add_column("replicas", Column("ready_at", DateTime(timezone=True)))
    for column in ("spec", "model_name"):
        op.execute(f"UPDATE replicas SET {column} = {OF_DEPLOYMENT.format(column=column)}")


def downgrade() -> None:
    for name in ("ready_at", "model_name", "spec"):
        op.drop_column("replicas", name)
    op.drop_column("deployments", "rollout")
