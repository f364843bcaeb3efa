"""Rules between fields: a rule is a three-line method (or function of the spec) that returns a complaint or None.

Rules run even when some fields are invalid, so that every complaint comes back at once: an invalid value is replaced
by `INVALID`, and a rule that reads it is skipped, because its premise is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from shared.errors import Complaint

Check = TypeVar("Check", bound=Callable[[Any], str | None])


def rule(field: str, code: str = "conflict") -> Callable[[Check], Check]:
    """Enter a method or function as a rule whose complaint is filed under `field`."""

    def mark(check: Check) -> Check:
        check.complaint_field, check.complaint_code = field, code  # type: ignore[attr-defined]
        return check

    return mark


def broken(owner: Any, checks: Iterator[Callable[[], str | None]] | None = None) -> list[Complaint]:
    """The complaints of every rule method of `owner`."""
    return [found for check in (checks or _methods(owner)) if (found := complaint(check)) is not None]


def complaint(check: Callable[..., str | None], *arguments: Any) -> Complaint | None:
    """What one rule says, or None when it holds or reads a field that is invalid itself."""
    try:
        message = check(*arguments)
    except ReadsInvalid:
        return None
    if message is None:
        return None
    return Complaint(field=check.complaint_field, message=message, code=check.complaint_code)  # type: ignore[attr-defined]


def _methods(owner: Any) -> Iterator[Callable[[], str | None]]:
    for name in dir(type(owner)):
        if hasattr(getattr(type(owner), name, None), "complaint_field"):
            yield getattr(owner, name)


class ReadsInvalid(Exception):
    """A rule asked for the value of a field that is invalid."""


class Invalid:
    """Stands for an invalid value; whatever a rule does with it ends the rule."""

    def _read(self, *_: Any) -> NoReturn:
        raise ReadsInvalid

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __contains__ = __hash__ = _read  # type: ignore[assignment]
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __getattr__ = __getitem__ = _read
    __str__ = __format__ = __int__ = __float__ = __index__ = __mod__ = __neg__ = _read  # type: ignore[assignment]


INVALID = Invalid()
