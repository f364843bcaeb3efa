"""What a refused argument is told: why it is not taken, what to use instead, and which values ask for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Refused:
    reason: str
    instead: str
    #: Values that mean what happens anyway, besides null.
    off: tuple[Any, ...] = ()

    @property
    def message(self) -> str:
        reason, instead = Text(self.reason), Text(self.instead)
        return Text("is not supported: {reason}; {instead}", reason=reason, instead=instead)


def is_off(refused: Refused, value: Any) -> bool:
    """Whether the value asks for nothing; true is not 1 and "no" is not false."""
    return value is None or any(value == off and type(value) is type(off) for off in refused.off)


def entries(reason: str, instead: str, **off: Any) -> Iterator[tuple[str, Refused]]:
    """One entry per argument: its value that asks for nothing (several: in a tuple)."""
    for name, value in off.items():
        values = value if isinstance(value, tuple) else (value,)
        yield name, Refused(reason=reason, instead=instead, off=values)
