"""The ledger: the truth about every job, model, dataset and deployment, on SQLite or PostgreSQL.

`Store(database_url)` connects lazily, so building one has no effect. What belongs to a project takes its id first,
and another project's record is NotFound; the few that take none are for workers and the sweep. Records come
back as frozen values (shared/job.py, shared/records.py). No files, no queue, no HTTP: only rows.
"""

from __future__ import annotations

import platform
import time
from types import TracebackType

from sqlalchemy import select, text

from shared.settings import InvalidSetting
from shared.store.attempts import Attempts
from shared.store.checkpoints import Checkpoints
from shared.store.datasets import Datasets
from shared.store.deployments import Deployments
from shared.store.discarded import Discarded
from shared.store.engine import Database, Observe, unobserved
from shared.store.evaluations import Evaluations
from shared.store.events import Events
from shared.store.fleet_events import DeploymentEvents
from shared.store.jobs import Jobs
from shared.store.keys import Keys, Projects
from shared.store.members import Members
from shared.store.migrate import LedgerBehind, Schema, migrate, schema
from shared.store.models import Models
from shared.store.moments import Moment
from shared.store.presets import Presets
from shared.store.queued import Queued
from shared.store.replicas import Replicas
from shared.store.routes import Routes
from shared.store.tables import meta
from shared.store.workers import Workers

__all__ = ["Store"]

#: How long a service that starts waits for whoever migrates.
AWAIT_TABLES_SECONDS = 120.0


class Store:
    def __init__(self, database_url: str, observe: Observe = unobserved) -> None:
        self.database = Database(database_url, observe)
        self.projects = Projects(self.database)
        self.keys = Keys(self.database)
        self.jobs = Jobs(self.database)
        self.attempts = Attempts(self.database)
        self.members = Members(self.database)
        self.events = Events(self.database)
        self.checkpoints = Checkpoints(self.database)
        self.discarded = Discarded(self.database)
        self.datasets = Datasets(self.database)
        self.models = Models(self.database)
        self.evaluations = Evaluations(self.database)
        self.deployments = Deployments(self.database)
        self.deployment_events = DeploymentEvents(self.database)
        self.replicas = Replicas(self.database)
        self.routes = Routes(self.database)
        self.presets = Presets(self.database)
        self.queued = Queued(self.database)
        self.workers = Workers(self.database)
        self.sweeps = Moment(self.database, "swept_at")
        #: Of those without a file missing.
        self.backups = Moment(self.database, "backed_up_at")

    def migrate(self) -> None:
        """Bring the tables up to this version's, from whatever they are, and make the default project."""
        migrate(self.database, host=platform.node())
        self.projects.default()

    def schema(self) -> Schema:
        """Of which revision the tables are, and of which this version's are."""
        return schema(self.database)

    def await_tables(self, seconds: float = AWAIT_TABLES_SECONDS) -> None:
        """For services that start while the ledger is being migrated by another. Raises: LedgerBehind"""
        end = time.monotonic() + seconds
        while (there := self.schema()).is_behind:
            if time.monotonic() > end:
                raise LedgerBehind(there.lacks)
            time.sleep(min(1.0, seconds))

    def ping(self) -> None:
        """Raises what reading would, where the database cannot be reached."""
        with self.database.read() as connection:
            connection.execute(text("SELECT 1"))

    def check_host(self) -> None:
        """SQLite works on one machine only: over a network share its locks do not hold. Raises: InvalidSetting"""
        if not self.database.is_sqlite:
            return
        with self.database.read() as connection:
            host = connection.execute(select(meta.c.value).where(meta.c.key == "host")).scalar()
        if host is not None and host != platform.node():
            raise InvalidSetting(
                f"The SQLite ledger {self.database.file} belongs to host {host!r} and this is {platform.node()!r}: "
                "workers on several machines need PostgreSQL (TUNESMITH_DATABASE_URL=postgresql://...)"
            )

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
