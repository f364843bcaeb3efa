"""How far a key may move its jobs ahead of others'.

Priority goes before fair share: whoever may raise it without end passes everybody. So administrators give any, users up
to TUNESMITH_USER_PRIORITY (0: they may only rank their own jobs down).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.services import Services
from shared import schema
from shared.errors import Complaint
from shared.param import MISSING, param
from shared.records import ApiKey
from shared.tongues import Text

FIELD = "priority"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What can be changed of a job that waits."""

    priority: int = param(MISSING, "Higher runs first.", type=int, minimum=-100, maximum=100, source="ours")

    def resolved(self) -> Change:
        return self


def read(services: Services, key: ApiKey, given: Mapping[str, Any]) -> int:
    """The priority that a body asks for. Raises InvalidSpec."""
    priority = schema.load(Change, given).priority
    if wrong := complaints(services, key, priority):
        raise schema.refusal(wrong)
    return priority


def complaints(services: Services, key: ApiKey, priority: int, place: str = "") -> list[Complaint]:
    most = services.settings.user_priority
    if key.role == "admin" or priority <= most:
        return []
    text = "is {priority}: a key of role {role} may give at most {most}, an administrator can change it"
    message = Text(text, priority=priority, role=key.role, most=most)
    return [Complaint(field=place + FIELD, message=message, code="not_allowed")]


def of_followers(
    services: Services, key: ApiKey, then: Iterable[Mapping[str, Any]], place: str = ""
) -> Iterator[Complaint]:
    for index, entry in enumerate(then):
        below = f"{place}then[{index}]."
        yield from complaints(services, key, entry.get(FIELD, 0), below)
        yield from of_followers(services, key, entry.get("then") or (), below)
