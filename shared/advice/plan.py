"""A plan: what a training would take, before anything runs. Pure; the door is gateway/plans.py.

What cannot be computed is null, and a finding says what would have to be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.advice import doctor, fit, options
from shared.advice.cards import Cards
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info
from shared.advice.memory import GIB
from shared.advice.shapes import Shape
from shared.spec import TrainSpec
from shared.tongues import Text, chinese


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a plan knows beside the spec."""

    shape: Shape | None = None
    cards: Cards | None = None
    num_rows: int | None = None
    lengths: Mapping[str, Any] | None = None

    def case(self, spec: TrainSpec) -> Case:
        count = self.cards.count if self.cards else 1
        return doctor.case(
            spec, num_rows=self.num_rows, num_devices=spec.distributed.num_ranks(count), shape=self.shape,
            cards=self.cards, lengths=self.lengths,
        )  # fmt: skip


def make(spec: TrainSpec, known: Known, more: list[Finding] | None = None) -> dict[str, Any]:
    """The answer to a plan, `more` findings of the caller among its own."""
    case = known.case(spec)
    table = options.table(spec, case.shape, _wide(case), _longest(case)) if case.shape else None
    found = [*(more or []), *_unknown(case), *doctor.of_case(case)]
    return {
        "training": training(case),
        "model": model(case.shape),
        "gpus": cards(case.cards),
        "memory": memory(case),
        "options": table if case.cards or table is None else options.without_verdicts(table),
        "nearest": nearest(case),
        "findings": [finding.as_dict() for finding in doctor.by_severity(found)],
    }


def _unknown(case: Case) -> list[Finding]:
    """What could not be computed, and what it would take."""
    found = []
    if case.shape is None:
        text = Text("The model's shape is not known: memory cannot be estimated.")
        advice = Text("Post its config.json as config, or register the model.")
        found.append(info("model_name_or_path", Origin.ESTIMATE, text, advice))
    elif not case.shape.is_known:
        text = Text("Models of type {family} are read like Llama's: the estimate may be off.", family=case.shape.family)
        found.append(info("model_name_or_path", Origin.ESTIMATE, text))
    if case.cards is None:
        text = Text("No card is named and no worker reports one: whether it fits cannot be said.")
        found.append(info("num_processes", Origin.ESTIMATE, text, Text("Give gpus, e.g. kind A100-80GB and count 8.")))
    if case.total_steps is None:
        text = Text("The number of steps cannot be computed.")
        advice = Text("Give num_rows, and lengths where samples are packed.")
        found.append(info("num_train_epochs", Origin.ESTIMATE, text, advice))
    return found


def training(case: Case) -> dict[str, Any]:
    return {
        "num_devices": case.num_devices,
        "effective_batch": case.effective_batch,
        "num_rows": case.train_rows,
        "steps_per_epoch": case.steps_per_epoch,
        "total_steps": case.total_steps,
        "tokens_per_step": case.tokens_per_step,
        "max_tokens_per_step": case.effective_batch * case.spec.data.cutoff_len,
    }


def model(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    return {
        "family": shape.family,
        "is_known_family": shape.is_known,
        "num_weights": shape.num_weights,
        "num_active": shape.num_active,
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden,
        "num_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_size": shape.head_size,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocab,
        "ties_embeddings": shape.is_tied,
        "max_length": shape.max_length or None,
    }


def cards(given: Cards | None) -> dict[str, Any] | None:
    if given is None:
        return None
    known = given.known
    return {
        "kind": given.kind,
        "count": given.count,
        "memory_gib": given.gib,
        "host_memory_gib": given.host_memory_gib,
        "has_bf16": given.has_bf16,
        "has_fp8": known.has_fp8 if known else None,
        "has_nvlink": known.has_nvlink if known else None,
    }


def memory(case: Case) -> dict[str, Any] | None:
    """Of one card, GiB by part; the verdict where the cards are known."""
    made = case.on()
    if made is None:
        return None
    fits = case.cards is not None
    return {
        "per_gpu_gib": made.memory.gib(),
        "host_gib": round(made.host_gib, 1),
        "num_trained": made.training.num_trained,
        "gradient_checkpointing": made.training.checkpointing,
        "attention": "eager" if made.training.is_eager else "flash",
        "verdict": made.verdict if fits else None,
        "reserve_gib": round(fit.RESERVE * made.cards.gib, 1) if fits else None,
        "free_gib": round(made.cards.gib - made.memory.total / GIB, 1) if fits else None,
    }


def nearest(case: Case) -> dict[str, Any] | None:
    """The smallest change that makes it fit; null where it fits, or where nothing does."""
    found = case.nearest
    if found is None:
        return None
    return {
        "patch": dict(found.patch),
        "what": list(found.what),
        "zh": {"what": [chinese.sentence(step) or step for step in found.what]},
        "gpus": found.fitted.cards.count,
        "per_gpu_gib": found.fitted.memory.gib(),
        "host_gib": round(found.fitted.host_gib, 1),
    }


def _wide(case: Case) -> Cards:
    """The cards that the job takes; of a common size where none are known."""
    made = case.on()
    return made.cards if made else Cards(memory_gib=1.0)


def _longest(case: Case) -> int | None:
    longest = case.lengths.get("length_max")
    return int(longest) if longest else None
