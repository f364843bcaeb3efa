"""What jobs require of cards, what keys have used, and which host is kept for a large job."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, DateTime, Float, ForeignKeyConstraint, PrimaryKeyConstraint, Text, text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    for table in ("projects", "api_keys"):
        op.add_column(table, Column("share", Float(), nullable=False, server_default="1"))
    for name, kind in (("gpu_kind", Text()), ("min_gpu_memory_gib", Float()), ("accelerator", Text())):
        op.add_column("jobs", Column(name, kind))
    op.add_column("jobs", Column("reserved_host", Text()))
    op.create_index("ix_jobs_reserved_host", "jobs", ["reserved_host"])
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        [
            *("status", "kind", "priority", "created_at", "id", "project_id", "owner", "num_devices", "storage_id"),
            *("gpu_kind", "min_gpu_memory_gib", "accelerator", "reserved_host"),
        ],
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    )
    op.create_index("ix_jobs_kind_status_finished_at", "jobs", ["kind", "status", "finished_at"])
    op.add_column("attempts", Column("devices", JSON_))
    op.create_table(
        "usage",
        Column("project_id", Text(), nullable=False),
        Column("owner", Text(), nullable=False),
        Column("device_seconds", Float(), nullable=False),
        Column("counted_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_usage_project_id"),
        PrimaryKeyConstraint("project_id", "owner", name="pk_usage"),
    )


def downgrade() -> None:
    op.drop_table("usage")
    op.drop_column("attempts", "devices")
    op.drop_index("ix_jobs_kind_status_finished_at", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
    op.drop_index("ix_jobs_reserved_host", "jobs")
    for name in ("reserved_host", "accelerator", "min_gpu_memory_gib", "gpu_kind"):
        op.drop_column("jobs", name)
    for table in ("api_keys", "projects"):
        op.drop_column(table, "share")
