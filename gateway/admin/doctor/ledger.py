"""The ledger: reached, of this version's tables, on this host, with a clock like ours; and which workers beat in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version

from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from gateway.admin.doctor.findings import Finding, error, ok, warning
from gateway.admin.services import without_workers
from shared.metrics.ledger import SILENT_SECONDS
from shared.settings import InvalidSetting, Settings
from shared.store import Store
from shared.store.columns import now
from shared.store.engine import ledger_time

#: Estimated starts and ages of workers are off by as much; no lease depends on clocks.
MAX_SKEW_SECONDS = 5.0
#: Of PostgreSQL's connections.
BUSY_SHARE = 0.8
#: As the alert TunesmithBackupOld has it.
OLD_DAYS = 2


def look(settings: Settings) -> Iterator[Finding]:
    try:
        store = Store(settings.database_url)
    except (ArgumentError, NoSuchModuleError, ValueError) as wrong:
        yield error(
            "ledger",
            f"TUNESMITH_DATABASE_URL is no database URL ({wrong})",
            "write postgresql://user:password@host/name",
        )
        return
    with store:
        if store.database.file is not None and not store.database.file.exists():
            yield ok("ledger", f"{store.database.file} is made by the first start")
            return
        try:
            yield from _opened(store)
        except InvalidSetting as wrong:
            yield error("ledger", wrong.message, "`tunesmith migrate` then makes its tables")
        except DBAPIError as refused:
            yield error(
                "ledger", f"it cannot be used: {_first_line(refused.orig)}",
                "see that the database runs, is reached from here and takes what TUNESMITH_DATABASE_URL says",
            )  # fmt: skip


def _opened(store: Store) -> Iterator[Finding]:
    yield from _private(store)
    there = store.schema()
    if there.is_behind:
        yield error(
            "ledger",
            f"its tables are those of {there.current or 'nobody'}, not {there.head}",
            "run `tunesmith migrate`",
        )
        return
    if there.current != there.head:
        yield warning("ledger", f"its tables are of a newer version ({there.current})", "update this installation, too")
    else:
        yield ok("ledger", f"reached, tables of revision {there.current}")
    yield _clock(store)
    yield from _connections(store)
    yield from _backup(store)
    try:
        store.check_host()
    except InvalidSetting as wrong:
        yield error(
            "ledger", wrong.message, "use PostgreSQL, or run `tunesmith migrate` if the platform moved to this host"
        )
    yield from _workers(store)


def _private(store: Store) -> Iterator[Finding]:
    if (file := store.database.file) is not None and os.stat(file).st_mode & 0o077:
        yield error("ledger", f"{file} can be read by others, and holds secrets of jobs", f"chmod 600 {file}")


def _clock(store: Store) -> Finding:
    with store.database.read() as connection:
        skew = (ledger_time(connection) - now()).total_seconds()
    if abs(skew) > MAX_SKEW_SECONDS:
        return warning(
            "clock", f"the database's clock is {skew:+.0f} s off this machine's", "let both follow a time server"
        )
    return ok("clock", f"{abs(skew):.1f} s off the ledger's")


def _connections(store: Store) -> Iterator[Finding]:
    """PostgreSQL takes so many and refuses the rest: each of our processes may hold up to fifteen."""
    if store.database.is_sqlite:
        return
    with store.database.read() as connection:
        most = int(connection.execute(text("SHOW max_connections")).scalar_one())
        used = int(connection.execute(text("SELECT count(*) FROM pg_stat_activity WHERE datname <> ''")).scalar_one())
    if used > BUSY_SHARE * most:
        yield warning(
            "connections", f"{used} of the {most} that PostgreSQL takes are in use: further services are refused",
            "raise max_connections, or put PgBouncer (pool_mode session) before it",
        )  # fmt: skip
    else:
        yield ok("connections", f"{used} of the {most} that PostgreSQL takes are in use")


def _backup(store: Store) -> Iterator[Finding]:
    """Of a ledger that somebody works with."""
    age = store.backups.age_seconds()
    days = (age or 0) / 86_400
    if age is not None and days < OLD_DAYS:
        yield ok("backup", f"the last whole one is {days:.1f} days old")
    elif age is not None or store.jobs.counts():
        yield warning(
            "backup", "never made" if age is None else f"the last whole one is {days:.0f} days old",
            "run `tunesmith backup PLACE` by the clock, on other disks than these (README, Backup)",
        )  # fmt: skip


def _workers(store: Store) -> Iterator[Finding]:
    alive = [worker for worker in store.workers.list() if worker.age_seconds < SILENT_SECONDS]
    lacking = without_workers(alive)
    if not lacking:
        yield ok("workers", f"{len(alive)} alive, of every kind")
    else:
        services = ", ".join(dict.fromkeys(lacking.values()))
        yield warning(
            "workers", f"nobody works on {', '.join(lacking)}", f"start `tunesmith up`, or these services: {services}"
        )
    ours = version("tunesmith")
    if others := sorted(f"{worker.id} ({worker.version})" for worker in alive if worker.version != ours):
        told = f"of another version than {ours}: {', '.join(others)}"
        yield warning("workers", told, "update them, see docs/upgrading.md")


def _first_line(wrong: BaseException | None) -> str:
    return (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
