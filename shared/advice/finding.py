"""One remark about a spec, and whose view it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.tongues import chinese


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Origin(StrEnum):
    """Whose view a finding is; where the paper and we differ, both are said."""

    #: The white paper on fine-tuning in production that this product covers.
    PAPER = "paper"
    #: Our own arithmetic on this spec.
    ESTIMATE = "estimate"
    #: Published practice: LF's examples, library documentation, measurements.
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Finding:
    severity: Severity
    #: Wire name of the field it is about.
    field: str
    #: What is so.
    message: str
    #: What to do, empty when nothing needs doing.
    advice: str = ""
    source: Origin

    def as_dict(self) -> dict[str, Any]:
        """As the API shows it; `zh` has message and advice as far as there is Chinese for them."""
        told = {"severity": self.severity.value, "field": self.field, "message": self.message, "advice": self.advice}
        return {**told, "source": self.source.value} | ({"zh": found} if (found := self.chinese()) else {})

    def chinese(self) -> dict[str, str]:
        told = {"message": chinese.sentence(self.message), "advice": chinese.sentence(self.advice)}
        return {name: text for name, text in told.items() if text}


def info(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.INFO, field=field, source=source, message=message, advice=advice)


def warning(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, field=field, source=source, message=message, advice=advice)


def error(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.ERROR, field=field, source=source, message=message, advice=advice)
