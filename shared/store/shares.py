"""Fair share: what each API key and project has had of the devices lately, and has now.

Usage is counted in device-seconds, an attempt's time from claim to end for each of its devices, and halves every
HALF_LIFE_SECONDS: one row per project and owner that the end of an attempt adds to, so that a claim reads as many rows
as there are keys. A device that is held now weighs as if it had been used AHEAD_SECONDS already: several idle workers
would otherwise all go to the same key. Divided by the `share` of key and project (1 unless set), the smaller comes
first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from shared import requirements
from shared.job import HELD, Job
from shared.lineup import AHEAD_SECONDS, Balance, Who
from shared.store.columns import now
from shared.store.tables import api_keys, attempts, jobs, projects, usage

HALF_LIFE_SECONDS = 24 * 3600.0
#: A longer attempt is a clock that jumped.
MAX_ATTEMPT_SECONDS = 60 * 24 * 3600.0


def weight(requires: Mapping[str, Any]) -> int:
    """Devices of all nodes; a job without any of its own still takes a worker."""
    return max(1, requirements.num_devices(requires)) * int(requires.get("num_nodes") or 1)


def decayed(seconds: float, since: datetime, moment: datetime) -> float:
    return seconds * math.exp2(-max(0.0, (moment - since).total_seconds()) / HALF_LIFE_SECONDS)


def balance(connection: Connection) -> Balance:
    moment, used = now(), dict[Who, float]()
    columns = usage.c.project_id, usage.c.owner, usage.c.device_seconds, usage.c.counted_at
    for project_id, owner, seconds, since in connection.execute(select(*columns)):
        used[project_id, owner] = decayed(seconds, since, moment)
    current = (attempts.c.job_id == jobs.c.id) & (attempts.c.number == jobs.c.attempt)
    held = select(jobs.c.project_id, jobs.c.owner, jobs.c.requires, attempts.c.started_at).join(attempts, current)
    for project_id, owner, requires, since in connection.execute(held.where(jobs.c.status.in_(HELD))):
        seconds = AHEAD_SECONDS + _seconds(since, moment)
        used[project_id, owner] = used.get((project_id, owner), 0.0) + seconds * weight(requires)
    owners = select(api_keys.c.id, api_keys.c.share).where(api_keys.c.share != 1)
    whole = select(projects.c.id, projects.c.share).where(projects.c.share != 1)
    return Balance(
        used=used,
        owner_shares={id: share for id, share in connection.execute(owners)},
        project_shares={id: share for id, share in connection.execute(whole)},
    )


def charge(connection: Connection, job: Job, started_at: datetime) -> None:
    """The job's current attempt is over: its owner has used the devices since it began."""
    moment = now()
    owner = connection.execute(select(jobs.c.owner).where(jobs.c.id == job.id)).scalar_one()
    mine = (usage.c.project_id == job.project_id, usage.c.owner == owner)
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = {"project_id": job.project_id, "owner": owner, "device_seconds": 0.0, "counted_at": moment}
    connection.execute(dialect.insert(usage).values(row).on_conflict_do_nothing())
    query = select(usage.c.device_seconds, usage.c.counted_at).where(*mine).with_for_update()
    before, since = connection.execute(query).one()
    added = _seconds(started_at, moment) * weight(job.requires)
    values = {"device_seconds": decayed(before, since, moment) + added, "counted_at": moment}
    connection.execute(update(usage).where(*mine).values(values))


def _seconds(since: datetime, moment: datetime) -> float:
    return min(max(0.0, (moment - since).total_seconds()), MAX_ATTEMPT_SECONDS)
