"""The ledger's Alembic revisions; shared/store/migrate.py runs them."""
