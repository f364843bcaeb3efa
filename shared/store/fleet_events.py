"""Reading what happened to deployments. Each event is written in the transaction that makes it happen."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, exists, select

from shared.records import DeploymentEvent
from shared.store.columns import record
from shared.store.engine import Database
from shared.store.fleet_tables import deployment_events
from shared.store.paging import MAX_LIMIT, one
from shared.store.tables import deployments, replicas

#: The largest number of the column; a client may send any as the one that it saw last.
MAX_NUMBER = 2**31 - 1


class DeploymentEvents:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, project_id: str, deployment_id: str, *, after: int = 0, limit: int = 1000, newest_first: bool = False
    ) -> list[DeploymentEvent]:
        """Past number `after`, oldest first; newest first: those before `after` (0: from the newest on)."""
        after = max(0, min(after, MAX_NUMBER))
        number = deployment_events.c.number
        query = select(deployment_events).where(deployment_events.c.deployment_id == deployment_id)
        query = query.limit(max(1, min(limit, MAX_LIMIT)))
        if newest_first:
            query = query.where(number < (after or MAX_NUMBER)).order_by(number.desc())
        else:
            query = query.where(number > after).order_by(number)
        mine = select(deployments.c.id).where(deployments.c.id == deployment_id, deployments.c.project_id == project_id)
        with self._database.read() as connection:
            one(connection, mine, f"deployment {deployment_id!r}")
            return [record(DeploymentEvent, row) for row in connection.execute(query).mappings()]

    def expire(self, before: datetime) -> int:
        """Delete those older than that of deployments that are stopped."""
        live = select(1).where(replicas.c.deployment_id == deployments.c.id, replicas.c.status != "stopped")
        stopped = select(deployments.c.id).where(deployments.c.wanted == "stopped", ~exists(live))
        over = deployment_events.c.deployment_id.in_(stopped), deployment_events.c.created_at < before
        with self._database.write() as connection:
            return connection.execute(delete(deployment_events).where(*over)).rowcount
