"""The nearest valid name to a wrong one, for messages that help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from shared.tongues import Text


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The most similar known name, or None when none is similar; `cutoff` 1 takes equal ones only."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name[:200].lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the nearest, or nothing."""
    close = nearest(name, known)
    return Text("; did you mean {close!r}?", close=close) if close else ""
