"""Diagnose a spec: what is sound, what is a flaw, and what to do about it.

The white paper's view is given as the paper's; where our arithmetic or published practice differs, a second finding
says so with the figures. Nothing here refuses a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from shared.advice import exporting, method, scale, training
from shared.advice.case import Case, billions_of
from shared.advice.finding import Finding, Severity
from shared.spec import ExportSpec, TrainSpec

__all__ = ["Finding", "findings"]

Check = Callable[[Any], Iterator[Finding]]
ORDER = [Severity.ERROR, Severity.WARNING, Severity.INFO]


def findings(spec: Any, *, num_rows: int | None = None, num_devices: int = 1) -> list[Finding]:
    """Every remark on the spec, the gravest first; `num_devices` counts where the spec itself does not say."""
    if isinstance(spec, TrainSpec):
        case = Case(
            spec=spec,
            num_rows=num_rows,
            num_devices=spec.distributed.num_processes or num_devices,
            billions=billions_of(spec.model.model_name_or_path or ""),
        )
        return _sorted(case, (*scale.CHECKS, *training.CHECKS, *method.CHECKS))
    if isinstance(spec, ExportSpec):
        return _sorted(spec, exporting.CHECKS)
    return []


def _sorted(case: Any, checks: tuple[Check, ...]) -> list[Finding]:
    found = [finding for check in checks for finding in check(case)]
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))
