"""What every writing transaction on a job is made of: lock its row, check the fence, move it, number its events.

Pattern: `before = lock(...)` or `hold(...)`, `after = replace(before, ...)`, `save(connection, before, after, events)`.
The row stays locked from the first to the last, so what was checked still holds when it is written. Transactions lock
a job's row before its project's, and only one job's: they cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from shared.errors import LeaseLost, NotFound, TunesmithError
from shared.job import HELD, TERMINAL, TRANSITIONS, Job, Status
from shared.records import NewEvent
from shared.store.columns import now, record
from shared.store.shares import charge
from shared.store.tables import attempts, events, job_secrets, jobs, projects
from shared.tongues import Text, chinese

#: The columns that Job shows.
JOB_COLUMNS = [jobs.c[f.name] for f in fields(Job)]
#: Of an event's message; a child's line may be of any length.
MAX_MESSAGE_CHARACTERS = 10_000


def lock(connection: Connection, job_id: str, project_id: str | None = None) -> Job:
    """The job, its row locked until the transaction ends. `project_id` None: whichever (workers only)."""
    query = select(*JOB_COLUMNS).where(jobs.c.id == job_id).with_for_update()
    if project_id is not None:
        query = query.where(jobs.c.project_id == project_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("There is no job {job_id!r} in this project", job_id=job_id)
    return record(Job, row)


def hold(connection: Connection, job_id: str, attempt: int) -> Job:
    """The fence: the locked job if `attempt` is its current one and holds it.

    Raises: LeaseLost
    """
    try:
        job = lock(connection, job_id)
    except NotFound as error:
        raise LeaseLost(f"Job {job_id} is gone") from error
    if job.attempt != attempt or job.status not in HELD:
        raise LeaseLost(f"Attempt {attempt} of {job_id} is over: the job is {job.status}, its attempt {job.attempt}")
    return job


def lock_project(connection: Connection, project_id: str) -> None:
    """Lets one transaction at a time decide on names and twins in the project; other rows may still refer to it."""
    query = select(projects.c.id).where(projects.c.id == project_id).with_for_update(key_share=True)
    if connection.execute(query).first() is None:
        raise NotFound("There is no project {project_id!r}", project_id=project_id)


def save(connection: Connection, before: Job, after: Job, new_events: Sequence[NewEvent] = ()) -> Job:
    """Write what changed from `before` to `after`, and the events, numbered on from the job's last."""
    if after.status != before.status and after.status not in TRANSITIONS[before.status]:
        raise TunesmithError(f"A job cannot go from {before.status} to {after.status}")
    after = replace(after, last_event=before.last_event + len(new_events))
    names = [f.name for f in fields(Job) if getattr(after, f.name) != getattr(before, f.name)]
    if names:
        statement = update(jobs).where(jobs.c.id == before.id)
        connection.execute(statement.values({name: getattr(after, name) for name in names}))
    _insert_events(connection, before, after, new_events)
    return after


def running_on(worker_id: str, attempt: int) -> Text:
    return Text("Job is running on {worker}, attempt {attempt}", worker=worker_id, attempt=attempt)


def move(
    connection: Connection,
    before: Job,
    status: Status,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
    new_events: Sequence[NewEvent] = (),
    **changes: Any,
) -> Job:
    """To another status, with the event that says so (type "done" for a last one) after `new_events`."""
    over = status in TERMINAL
    if before.status == Status.QUEUED:  # no host is kept any longer for what waits no more
        connection.execute(
            update(jobs).where(jobs.c.id == before.id, jobs.c.reserved_host.is_not(None)).values(reserved_host=None)
        )
    if over:
        changes = {"finished_at": now(), **changes}
        connection.execute(delete(job_secrets).where(job_secrets.c.job_id == before.id))
    told = {"status": status.value, **(data or {})}
    told = chinese.beside(message, told) if isinstance(message, Text) else told
    last = NewEvent(type="done" if over else "status", level=level, message=message, data=told)
    return save(connection, before, replace(before, status=status, **changes), [*new_events, last])


def end_attempt(
    connection: Connection, job: Job, status: str, reason: str | None = None, error: dict[str, Any] | None = None
) -> None:
    """The job's current attempt is over: what became of it, and what its owner has used."""
    current = (attempts.c.job_id == job.id, attempts.c.number == job.attempt)
    ended = {"status": status, "reason": reason, "error": error, "ended_at": now()}
    connection.execute(update(attempts).where(*current).values(ended))
    charge(connection, job, connection.execute(select(attempts.c.started_at).where(*current)).scalar_one())


def _insert_events(connection: Connection, before: Job, after: Job, new_events: Sequence[NewEvent]) -> None:
    rows = [
        {
            "job_id": after.id,
            "number": number,
            "attempt": after.attempt,
            "created_at": event.created_at or now(),
            "level": event.level,
            "type": event.type,
            "message": event.message[:MAX_MESSAGE_CHARACTERS],
            "data": event.data,
            "superseded": False,
            "step": step_of(event),
        }
        for number, event in enumerate(new_events, before.last_event + 1)
    ]
    if rows:
        connection.execute(insert(events), rows)


def step_of(event: NewEvent) -> int | None:
    """The step of a metrics event, for superseding; None for what is no step, however a child wrote it."""
    step = event.data.get("step") if event.type == "metrics" else None
    return step if isinstance(step, int) and not isinstance(step, bool) and abs(step) < 2**63 else None
