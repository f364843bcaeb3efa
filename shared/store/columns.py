"""Column types that behave the same on SQLite and PostgreSQL, and the one turn from a row to a record.

PostgreSQL refuses what SQLite swallows: NUL characters, lone surrogates, NaN in JSON. A child's log line or a loss that
became NaN must not cost a job its lease, so such text is cleaned and such numbers become null on the way in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import JSON, DateTime, Dialect, RowMapping, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

T = TypeVar("T")

#: A dict or list; None is stored as SQL NULL.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def now() -> datetime:
    return datetime.now(UTC)


def clean(text: str) -> str:
    """`text` with what PostgreSQL cannot store (NUL, lone surrogates) replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def to_json(value: Any) -> str:
    return json.dumps(_portable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean(str(key)): _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return value


class Words(TypeDecorator[str]):
    """Text of any length."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Choice(TypeDecorator[StrEnum]):
    """A StrEnum as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


class Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite keeps no zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return None if value is None else value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


def record(kind: type[T], row: RowMapping | Mapping[str, Any]) -> T:
    """The row as a record: its columns by the record's field names."""
    values = {str(key): value for key, value in row.items()}
    names = [f.name for f in fields(kind) if f.name in values]  # type: ignore[arg-type]
    return kind(**{name: values[name] for name in names})
