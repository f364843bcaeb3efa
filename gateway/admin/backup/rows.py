"""The ledger as lines of JSON: every row, in one transaction, by the tables that the database has.

A table begins with {"table", "columns"}; its rows follow as lists. Times are RFC 3339 in UTC. Reading goes by the
database's own tables and not by the code's, so that a ledger can be copied before it is migrated; loading makes the
tables of the copy's revision, fills them and then migrates.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from alembic import command
from sqlalchemy import JSON, Column, Connection, DateTime, MetaData, Table, delete, func, insert, null, select, text

from shared.artifact import SCHEME, CorruptArtifact
from shared.errors import Conflict
from shared.store.engine import Database
from shared.store.migrate import config, lock, note_host, revision, write_ahead

#: What says of a running installation: workers tell of themselves anew, the host is written by who migrates.
LEFT_OUT = frozenset({"alembic_version", "workers", "meta"})
SECRETS = "job_secrets"
#: Of replicas that run now, and never again.
KEYS_OF_REPLICAS = "replicas", "api_key"
#: Their `uri` is the record's own artifact; elsewhere a URI may tell of files that have gone since.
WITH_ARTIFACTS = ("datasets", "models", "checkpoints")
#: Rows of an installation in use; a new one has a project and a key.
IN_USE = ("jobs", "datasets", "models", "deployments")
CHUNK_ROWS = 1000


@dataclass(kw_only=True)
class Dump:
    """What a copy of the rows holds."""

    revision: str
    #: Rows by table.
    tables: dict[str, int] = field(default_factory=dict)
    #: URI of each record's artifact -> its digest.
    artifacts: dict[str, str] = field(default_factory=dict)
    #: Other URIs within rows: answers of a job, predictions of an evaluation.
    mentioned: set[str] = field(default_factory=set)


def dump(database: Database, file: IO[str], *, with_secrets: bool) -> Dump:
    """Write every row to `file`, as of one moment."""
    options: dict[str, Any] = {} if database.is_sqlite else {"isolation_level": "REPEATABLE READ"}
    with database.engine.connect().execution_options(**options) as connection:
        made = Dump(revision=revision(connection) or "")
        if not made.revision:
            raise Conflict("the ledger has no tables: there is nothing to copy (see TUNESMITH_DATABASE_URL)")
        for table in _tables(connection):
            if table.name != SECRETS or with_secrets:
                made.tables[table.name] = sum(1 for _ in _write(connection, table, file, made))
        return made


def _write(connection: Connection, table: Table, file: IO[str], made: Dump) -> Iterator[None]:
    names = [column.name for column in table.columns]
    file.write(json.dumps({"table": table.name, "columns": names}) + "\n")
    for row in connection.execution_options(yield_per=CHUNK_ROWS).execute(_in_order(table)):
        values = [
            None if (table.name, name) == KEYS_OF_REPLICAS else _plain(value)
            for name, value in zip(names, row, strict=True)
        ]
        file.write(json.dumps(values, ensure_ascii=False) + "\n")
        _note_artifacts(made, table.name, dict(zip(names, values, strict=True)))
        yield


def _in_order(table: Table) -> Any:
    """By age: a job is made after the one that it follows."""
    keys = [column for column in table.columns if column.name == "created_at"]
    return select(table).order_by(*keys, *table.primary_key.columns)


def _note_artifacts(made: Dump, table: str, row: dict[str, Any]) -> None:
    records = [row] if table in WITH_ARTIFACTS else []
    if table == "checkpoints" and row.get("name"):
        records.append(row["model"])  # what it is as a model lies apart, and outlives what a training goes on from
    made.artifacts |= {own["uri"]: own["digest"] for own in records if own["uri"].startswith(SCHEME)}
    if table != "discarded":
        made.mentioned.update(uri for value in row.values() for uri in _uris(value))


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(SCHEME):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _uris(item)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return value


def require_empty(database: Database) -> None:
    """Raises Conflict where somebody has worked with this ledger."""
    with database.read() as connection:
        _require_empty(connection)


def _require_empty(connection: Connection) -> None:
    tables = {table.name: table for table in _tables(connection)}
    counts = {name: _count(connection, tables[name]) for name in IN_USE if name in tables}
    if any(counts.values()):
        held = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        raise Conflict(
            f"the ledger is in use ({held}): a backup is restored into an empty one; name another in "
            "TUNESMITH_DATABASE_URL or set the old one aside (README, Backup)"
        )


def load(database: Database, lines: Iterable[str], made_at: str, tables: dict[str, int]) -> None:
    """All rows or none: tables of revision `made_at`, the rows, then this version's tables. Raises Conflict."""
    write_ahead(database)
    with database.write() as connection:
        lock(connection)
        _require_empty(connection)
        command.downgrade(config(connection), "base")
        command.upgrade(config(connection), made_at)
        if database.is_sqlite:
            connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        _fill(connection, lines)
        _compare(connection, tables)
        command.upgrade(config(connection), "head")
        note_host(connection, platform.node())


def _fill(connection: Connection, lines: Iterable[str]) -> None:
    tables = {table.name: table for table in _tables(connection)}
    read = (json.loads(line) for line in lines)
    columns: Sequence[Column[Any]] = ()
    table: Table | None = None
    waiting: list[dict[str, Any]] = []
    for value in read:
        if isinstance(value, dict):
            _insert(connection, table, waiting)
            table = tables[value["table"]]
            columns = [table.columns[name] for name in value["columns"]]
            connection.execute(delete(table))
            continue
        waiting.append({column.name: _typed(column, item) for column, item in zip(columns, value, strict=True)})
        if len(waiting) == CHUNK_ROWS:
            _insert(connection, table, waiting)
    _insert(connection, table, waiting)


def _insert(connection: Connection, table: Table | None, waiting: list[dict[str, Any]]) -> None:
    if table is not None and waiting:
        connection.execute(insert(table), waiting)
    waiting.clear()


def _typed(column: Column[Any], value: Any) -> Any:
    if value is None:
        return null() if isinstance(column.type, JSON) else None
    return datetime.fromisoformat(value) if isinstance(column.type, DateTime) else value


def _compare(connection: Connection, tables: dict[str, int]) -> None:
    known = {table.name: table for table in _tables(connection)}
    for name, count in tables.items():
        if (found := _count(connection, known[name])) != count:
            raise CorruptArtifact(f"{found} of {count} rows of {name} arrived: nothing is restored")


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _tables(connection: Connection) -> list[Table]:
    """What the database has, referred tables first."""
    reflected = MetaData()
    reflected.reflect(connection)
    return [table for table in reflected.sorted_tables if table.name not in LEFT_OUT]
