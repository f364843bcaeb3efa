"""A checkpoint can be used as a model, be found damaged, and go: what of it still lies in the storage is known."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Boolean, Column, DateTime, Integer, PrimaryKeyConstraint, Text, false
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("checkpoints", Column("name", Text))
    op.add_column("checkpoints", Column("model", JSON_, nullable=False, server_default="{}"))
    op.add_column("checkpoints", Column("is_damaged", Boolean, nullable=False, server_default=false()))
    op.create_index(op.f("ix_checkpoints_name"), "checkpoints", ["name"])
    op.create_table(
        "discarded",
        Column("uri", Text, nullable=False),
        Column("storage_id", Text),
        Column("job_id", Text),
        Column("attempt", Integer),
        Column("created_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("uri", name="pk_discarded"),
    )


def downgrade() -> None:
    op.drop_table("discarded")
    op.drop_index(op.f("ix_checkpoints_name"), table_name="checkpoints")
    for name in ("is_damaged", "model", "name"):
        op.drop_column("checkpoints", name)
