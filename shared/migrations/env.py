"""Alembic's entry: run by shared/store/migrate.py within a connection that it hands over. Not for import.

To make a revision: change shared/store/tables.py, then write the next file in versions/ by hand; the contract tests
compare the two on both databases.
"""

from __future__ import annotations

from alembic import context

from shared.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
