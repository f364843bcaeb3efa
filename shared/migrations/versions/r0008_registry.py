"""Versions, aliases and tags of models, and what each was made from."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, ForeignKeyConstraint, Integer, PrimaryKeyConstraint, Text, text
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON_ = JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("models", Column("family", Text()))
    op.add_column("models", Column("version", Integer(), nullable=False, server_default="1"))
    op.add_column("models", Column("parent_id", Text()))
    for name in ("aliases", "tags"):
        op.add_column("models", Column(name, JSON_, nullable=False, server_default=text("'[]'")))
    op.create_index("ix_models_parent_id", "models", ["parent_id"])
    op.create_index("ix_models_project_id_family", "models", ["project_id", "family"])
    op.create_table(
        "families",
        Column("project_id", Text(), nullable=False),
        Column("name", Text(), nullable=False),
        Column("last_version", Integer(), nullable=False),
        ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_families_project_id"),
        PrimaryKeyConstraint("project_id", "name", name="pk_families"),
    )
    # Of what there is each is the first of its name.
    op.execute(text("UPDATE models SET family = name"))
    op.execute(text("INSERT INTO families (project_id, name, last_version) SELECT project_id, name, 1 FROM models"))


def downgrade() -> None:
    op.drop_table("families")
    op.drop_index("ix_models_project_id_family", "models")
    op.drop_index("ix_models_parent_id", "models")
    for name in ("tags", "aliases", "parent_id", "version", "family"):
        op.drop_column("models", name)
