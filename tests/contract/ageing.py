"""Jobs that have waited long, without waiting."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from shared.job import Job
from shared.store import Store
from shared.store.columns import now
from shared.store.tables import jobs


def grow_old(store: Store, job: Job, seconds: float) -> None:
    with store.database.write() as connection:
        connection.execute(
            update(jobs).where(jobs.c.id == job.id).values(created_at=now() - timedelta(seconds=seconds))
        )
