"""Training stages: one declaration a file here, its implementation under the same name in the trainer's child."""

from __future__ import annotations

from collections.abc import Mapping

from shared import registry
from shared.declarations import Rates, Stage
from shared.fields import Message

__all__ = ["LATER", "TABLE", "Rates", "Stage", "complaint", "get", "names"]

#: Stages that LF knows and we do not run yet: what to do instead.
LATER: Mapping[str, str] = {}
TABLE: Mapping[str, Stage] = registry.load(__name__, __path__, "STAGE")


def names() -> list[str]:
    return list(TABLE)


def get(name: str) -> Stage:
    return TABLE[name]


def complaint(value: str) -> Message | None:
    return registry.complaint(value, TABLE, {name: why for name, why in LATER.items() if name not in TABLE})
