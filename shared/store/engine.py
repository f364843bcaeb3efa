"""How the ledger is connected to: one place for transactions, pragmas and time limits of SQLite and PostgreSQL.

`Database.write()` is the only way to write. On SQLite it begins IMMEDIATE: a deferred transaction that reads and then
writes fails at once with "database is locked", whatever the time-out. Transactions are short: no I/O inside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from shared.settings import InvalidSetting
from shared.store.columns import now, to_json

#: How long a writer waits for another one, seconds.
BUSY_SECONDS = 30
#: A worker that is frozen inside a transaction keeps the job's row locked; PostgreSQL ends it after this long, so that
#: the sweep can take the job from it. Milliseconds.
IDLE_TRANSACTION_MS = 15_000
ENCODING = "UTF8"
#: The client's encoding may be set otherwise for a role or in PGCLIENTENCODING. Of a server whose network has vanished
#: nobody hears: without the rest a request would wait for it for a quarter of an hour.
POSTGRES = {
    "connect_timeout": 10, "application_name": "tunesmith", "client_encoding": ENCODING,
    "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip


#: Told of each transaction: its "read" or "write", how long it held a connection, what the database failed it with.
Observe = Callable[[str, float, BaseException | None], None]


def unobserved(access: str, seconds: float, error: BaseException | None) -> None:
    """For who measures nothing."""


class Database:
    """The pool of connections of one process; threads may share it."""

    def __init__(self, database_url: str, observe: Observe = unobserved) -> None:
        self.url = normalized(database_url)
        self.engine = make_engine(self.url)
        self._writer = self.engine.execution_options(writes=True)
        self._observe = observe

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite ledger; None: PostgreSQL, or in memory."""
        return Path(self.url.database) if self.is_sqlite and self.url.database not in (None, "", ":memory:") else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._observed("read"), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._observed("write"), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _observed(self, access: str) -> Iterator[None]:
        began, failed = time.monotonic(), None
        try:
            yield
        except (DBAPIError, PoolTimeoutError) as error:
            failed = error
            raise
        finally:
            self._observe(access, time.monotonic() - began, failed)

    @property
    def num_in_use(self) -> int:
        """Connections of the pool that somebody holds."""
        return self.engine.pool.checkedout() if isinstance(self.engine.pool, QueuePool) else 0

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ON CONFLICT, which both databases have and SQLAlchemy's common one has not."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        self.engine.dispose()


def ledger_time(connection: Connection) -> datetime:
    """What the clock says that all workers have in common: PostgreSQL's own, or that of the one machine of SQLite."""
    if connection.dialect.name == "sqlite":
        return now()
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def normalized(database_url: str) -> URL:
    """The URL with our driver named: `postgres://` and `postgresql://` mean psycopg 3."""
    url = make_url(database_url)
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", "postgresql") else url


def make_engine(url: URL) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    arguments = {"timeout": BUSY_SECONDS} if is_sqlite else POSTGRES
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=not is_sqlite, json_serializer=to_json)
    if is_sqlite:
        event.listen(engine, "do_connect", _make_private)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "do_connect", _connect_postgres)
        event.listen(engine, "connect", _prepare_postgres)
    return engine


def _make_private(dialect: Any, record: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """The file holds sealed secrets of jobs: only its owner may read it. Its WAL inherits the mode."""
    if args and args[0] != ":memory:" and not args[0].startswith("file:"):
        Path(args[0]).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(args[0], os.O_RDWR | os.O_CREAT, 0o600))


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    for pragma in ("foreign_keys = ON", "synchronous = NORMAL", f"busy_timeout = {BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _connect_postgres(dialect: Any, record: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Raises InvalidSetting: another encoding than UTF8 cannot keep what users write, and SQL_ASCII reads as bytes."""
    connection = dialect.connect(*args, **kwargs)
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (ENCODING, None):
        name = connection.info.dbname
        connection.close()
        raise InvalidSetting(
            f"The database {name!r} of TUNESMITH_DATABASE_URL has the encoding {encoding}, and the ledger "
            f"wants {ENCODING}: make another (CREATE DATABASE tunesmith ENCODING '{ENCODING}' TEMPLATE template0) and "
            "name it there"
        )
    return connection


def _prepare_postgres(connection: Any, record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET lock_timeout = {BUSY_SECONDS * 1000}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TRANSACTION_MS}")
    connection.commit()
