"""temporary"""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any

@dataclass(frozen=True, kw_only=True)
class Refused:
    reason: str
    instead: str
    off: Any = None

    @property
    def message(self) -> str:
        return f"{self.reason}; {self.instead}"

UNSUPPORTED: dict[str, Refused] = {}

def is_off(refused: Refused, value: Any) -> bool:
    return value is None or value == refused.off
