"""Several workers share an attempt: its nodes, and what a worker tells so that it can be one."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, ForeignKeyConstraint, Integer, PrimaryKeyConstraint, Text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "members",
        Column("job_id", Text, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("node_rank", Integer, nullable=False),
        Column("worker_id", Text, nullable=False),
        Column("address", Text, nullable=False),
        Column("port", Integer),
        Column("beat", BigInteger, nullable=False),
        Column("status", Text, nullable=False),
        Column("error", JSON_),
        PrimaryKeyConstraint("job_id", "attempt", "node_rank", name="pk_members"),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_members_job_id"),
    )
    op.create_index("ix_members_worker_id", "members", ["worker_id"])
    op.add_column("workers", Column("address", Text))


def downgrade() -> None:
    op.drop_column("workers", "address")
    op.drop_table("members")
