"""What attempts run with instead of the spec's values, after a failure that this cures."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    for table in ("jobs", "attempts"):
        op.add_column(table, Column("adjustments", JSON_, nullable=False, server_default="{}"))
    op.add_column("attempts", Column("error", JSON_))


def downgrade() -> None:
    op.drop_column("attempts", "error")
    for table in ("attempts", "jobs"):
        op.drop_column(table, "adjustments")
