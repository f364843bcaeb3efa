"""Workers report their cards and memory, which plans are made for."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("workers", Column("machine", JSON_, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("workers", "machine")
