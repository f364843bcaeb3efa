"""What is counted of requests that models answer: the interface, and as what each ends (counted by inference.py)."""

from __future__ import annotations

from typing import Protocol

from gateway.eventstream import Usage
from gateway.patience import ClientGone
from shared.errors import TunesmithError


class Meter(Protocol):
    """Where the numbers of one answer go."""

    def began(self, model: str) -> None: ...
    def first_token(self, model: str, seconds: float) -> None: ...
    def finished(self, model: str, usage: Usage) -> None: ...

    def streamed(self, model: str, seconds: float, num_tokens: int) -> None:
        """A stream of so many tokens took so long from the first to the last."""

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        """How a request that began has ended, and after how long."""

    def withdrawn(self, model: str) -> None:
        """A request that began is begun once more."""


def outcome(error: BaseException) -> str:
    """What a request that was not answered is counted as."""
    if isinstance(error, ClientGone):
        return "client_gone"
    status = error.status if isinstance(error, TunesmithError) else 500
    return {429: "refused", 504: "too_slow"}.get(status, "invalid" if status < 500 else "unavailable")
