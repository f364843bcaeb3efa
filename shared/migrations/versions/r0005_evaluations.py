"""What evaluations measured, by model and dataset or task."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, DateTime, ForeignKeyConstraint, PrimaryKeyConstraint, Text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "evaluations",
        Column("id", Text(), nullable=False),
        Column("project_id", Text(), nullable=False),
        Column("job_id", Text(), nullable=False),
        Column("model_name", Text(), nullable=False),
        *(Column(name, Text()) for name in ("model_id", "dataset", "dataset_id", "dataset_digest", "task")),
        Column("num_samples", BigInteger(), nullable=False),
        Column("metrics", JSON_, nullable=False),
        Column("spec", JSON_, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name="pk_evaluations"),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_evaluations_project_id"),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_evaluations_job_id"),
    )
    for columns in (["project_id", "created_at", "id"], ["project_id", "model_id"], ["job_id"]):
        op.create_index(f"ix_evaluations_{'_'.join(columns)}", "evaluations", columns)


def downgrade() -> None:
    op.drop_table("evaluations")
