"""How an export says that its files do not answer as what was trained: the figures, and which limit is crossed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import TunesmithError


class VerificationFailed(TunesmithError):
    """The exported files do not answer as the trained model does; nothing was published."""

    code = "verification_failed"

    def __init__(self, message: str, figures: Mapping[str, Any] | None = None, field: str | None = None):
        #: What was measured: the details of the job's error.
        self.figures = dict(figures or {})
        super().__init__(message, field=field)


def raise_failed(what: str, wrong: Sequence[str], figures: Mapping[str, Any], field: str | None = None) -> None:
    """Raises VerificationFailed where anything is wrong."""
    if wrong:
        raise VerificationFailed(f"{what}: {'; '.join(wrong)}. Nothing was published.", figures, field)
