"""Which checkpoints of a training are the best, and which may go. Pure functions of its spec and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.records import Checkpoint


def best(checkpoints: Sequence[Checkpoint], spec: Mapping[str, Any]) -> Checkpoint | None:
    """By the validation at its own step, in the metric that the spec names; of equals the first. None: none has one."""
    metric = str(spec.get("metric_for_best_model") or "loss").removeprefix("eval_")
    is_greatest = spec.get("greater_is_better")
    sign = 1 if (metric != "loss" if is_greatest is None else is_greatest) else -1
    measured = [found for found in checkpoints if isinstance(found.metrics.get(f"eval_{metric}"), int | float)]
    return max(measured, key=lambda found: sign * found.metrics[f"eval_{metric}"], default=None)


def superfluous(checkpoints: Sequence[Checkpoint], spec: Mapping[str, Any]) -> list[Checkpoint]:
    """Those past `save_total_limit`, oldest first; never the newest, the newest that can be resumed, or the best."""
    limit = spec.get("save_total_limit")
    if not limit:
        return []
    by_step = sorted(checkpoints, key=lambda found: (found.step, found.created_at))
    resumable = [found for found in by_step if found.is_resumable]
    kept = {found.id for found in [*by_step[-limit:], *resumable[-1:]]}
    if (top := best(by_step, spec)) is not None:
        kept.add(top.id)
    return [found for found in by_step if found.id not in kept]
