"""Diagnose a spec: what is sound, what is a flaw, and what to do about it.

The white paper's view is given as the paper's; where our arithmetic or published practice differs, a second finding
says so with the figures. Nothing here refuses a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shared.advice import adapter, exporting, hardware, method, preferring, reading, rewarded, scale, silent, training
from shared.advice.cards import Cards
from shared.advice.case import Case, billions_of
from shared.advice.finding import Finding, Severity
from shared.advice.shapes import Shape
from shared.spec import ExportSpec, TrainSpec

__all__ = ["Finding", "findings"]

Check = Callable[[Any], Iterator[Finding]]
#: What is asked of a training.
TRAINING: tuple[Check, ...] = (
    *hardware.CHECKS, *scale.CHECKS, *training.CHECKS, *adapter.CHECKS, *method.CHECKS, *silent.CHECKS,
    *rewarded.CHECKS, *preferring.CHECKS,
)  # fmt: skip
ORDER = [Severity.ERROR, Severity.WARNING, Severity.INFO]


def findings(
    spec: Any,
    *,
    num_rows: int | None = None,
    num_devices: int = 1,
    shape: Shape | None = None,
    cards: Cards | None = None,
    lengths: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Every remark on the spec, the gravest first; `num_devices` counts where the spec itself does not say."""
    if isinstance(spec, TrainSpec):
        devices = spec.distributed.num_ranks(num_devices)
        return of_case(case(spec, num_rows=num_rows, num_devices=devices, shape=shape, cards=cards, lengths=lengths))
    if isinstance(spec, ExportSpec):
        return _sorted(spec, exporting.CHECKS)
    return []


def case(
    spec: TrainSpec,
    *,
    num_rows: int | None,
    num_devices: int,
    shape: Shape | None,
    cards: Cards | None,
    lengths: Mapping[str, Any] | None,
) -> Case:
    named = billions_of(spec.model.model_name_or_path or "")
    billions = shape.num_weights / 1e9 if shape is not None else named
    return Case(
        spec=spec, num_rows=num_rows, num_devices=num_devices, billions=billions, shape=shape, cards=cards,
        lengths=lengths or {},
    )  # fmt: skip


def of_case(case: Case) -> list[Finding]:
    """Every remark on a training."""
    found = _sorted(case, TRAINING)
    if {"p50", "p95", "p99", "length_max"} <= case.lengths.keys():
        unknown = {"num_unusable": 0, "num_rows": case.num_rows or 1, "share_cut": 0.0, "share_unanswered": 0.0}
        found += reading.remarks(case.spec, {**unknown, **case.lengths})
    return by_severity(found)


def _sorted(case: Any, checks: tuple[Check, ...]) -> list[Finding]:
    return by_severity([finding for check in checks for finding in check(case)])


def by_severity(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))
