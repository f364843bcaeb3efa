"""Names that users give: how long they may be, and what is done when one is taken."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from shared.errors import Complaint, InvalidRequest
from shared.tongues import Text

#: PostgreSQL refuses an index entry over 2,704 bytes, and a character may take 4.
MAX_NAME_CHARACTERS = 500


def check_name(name: str) -> None:
    """Raises: InvalidRequest"""
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        message = Text("name has {count} characters: use 1 to {most}", count=len(name), most=MAX_NAME_CHARACTERS)
        raise InvalidRequest(message, complaints=[Complaint(field="name", message=message)])


def fitting(name: str) -> str:
    """As much of it as leaves room for a number."""
    return name[: MAX_NAME_CHARACTERS - 10]


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """`name`, or with the first number from 2 on that makes it free. The caller holds the project's row."""
    name = fitting(name)
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in names if not is_taken(name))
