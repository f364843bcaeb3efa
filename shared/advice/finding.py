"""One remark about a spec, and whose view it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


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

    def as_dict(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def info(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.INFO, field=field, source=source, message=message, advice=advice)


def warning(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, field=field, source=source, message=message, advice=advice)


def error(field: str, source: Origin, message: str, advice: str = "") -> Finding:
    return Finding(severity=Severity.ERROR, field=field, source=source, message=message, advice=advice)
