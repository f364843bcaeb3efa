"""Reading events of jobs. Writing them is part of the fenced transactions in attempts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, select

from shared.job import TERMINAL, Event
from shared.store.columns import record
from shared.store.engine import Database
from shared.store.paging import MAX_LIMIT, check_job
from shared.store.tables import events, jobs

#: The largest event number; a client may send any number as the one it saw last.
MAX_NUMBER = 2**63 - 1
#: Metrics events read at once: some seconds of work, and far more than a curve shows.
MAX_MEASURED = 100_000


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    def since(self, cursor: Mapping[str, int], *, limit: int = 1000) -> list[Event]:
        """For a tailer: what came to the jobs of `cursor` past the number given for each, in order per job.

        At most `limit` per job, so call again with the cursor moved on. A job that is unknown has no events.
        """
        with self._database.read() as connection:
            query = select(jobs.c.id, jobs.c.last_event).where(jobs.c.id.in_(list(cursor)))
            news = [job_id for job_id, last in connection.execute(query) if last > cursor[job_id]]
            found: list[Event] = []
            for job_id in news:
                query = select(events).where(events.c.job_id == job_id, events.c.number > cursor[job_id])
                rows = connection.execute(query.order_by(events.c.number).limit(limit)).mappings()
                found.extend(record(Event, row) for row in rows)
        return found

    def list(
        self, project_id: str, job_id: str, *, after: int = 0, limit: int = 1000, newest_first: bool = False
    ) -> list[Event]:
        """Events past number `after`, oldest first; newest first: those before `after` (0: from the newest on)."""
        after = max(0, min(after, MAX_NUMBER))
        number = events.c.number
        query = select(events).where(events.c.job_id == job_id).limit(max(1, min(limit, MAX_LIMIT)))
        if newest_first:
            query = query.where(number < (after or MAX_NUMBER)).order_by(number.desc())
        else:
            query = query.where(number > after).order_by(number)
        with self._database.read() as connection:
            check_job(connection, project_id, job_id)
            return [record(Event, row) for row in connection.execute(query).mappings()]

    def measured(self, project_id: str, job_id: str) -> Sequence[dict[str, Any]]:
        """The data of the job's metrics events, oldest first; without steps that a later attempt did again."""
        is_one = [events.c.job_id == job_id, events.c.type == "metrics", events.c.superseded.is_(False)]
        query = select(events.c.data).where(*is_one).order_by(events.c.number).limit(MAX_MEASURED)
        with self._database.read() as connection:
            check_job(connection, project_id, job_id)
            return [dict(data) for data in connection.execute(query).scalars()]

    def last_step(self, job_id: str) -> int:
        """The last step of which any attempt told a measure; -1: none did."""
        with self._database.read() as connection:
            found = connection.execute(select(func.max(events.c.step)).where(events.c.job_id == job_id)).scalar()
            return -1 if found is None else int(found)

    def expire(self, finished_before: datetime) -> int:
        """Delete the events of jobs that were over by then, but for each one's last, which says how it ended."""
        over = jobs.c.status.in_(TERMINAL), jobs.c.finished_at < finished_before
        older = select(1).where(jobs.c.id == events.c.job_id, events.c.number < jobs.c.last_event, *over)
        with self._database.write() as connection:
            return connection.execute(delete(events).where(exists(older))).rowcount
