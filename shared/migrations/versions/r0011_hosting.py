"""How an adapter is hosted: why there, what requests to it carry, which one was before; what replicas take."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, Integer, text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("deployments", Column("hosting", JSON_, nullable=False, server_default=text("'{}'")))
    op.add_column("replicas", Column("max_lora_rank", Integer()))


def downgrade() -> None:
    op.drop_column("replicas", "max_lora_rank")
    op.drop_column("deployments", "hosting")
