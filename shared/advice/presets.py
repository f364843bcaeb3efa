"""Recommend a spec for a model, data, cards and a goal: each value with the reason for it, all of it estimated to fit.

What the caller gives is kept. The order in which ways to fit are tried is that of their cost: whole weights with the
largest batch, sharing, 4 bits, offloading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared import schema, stages
from shared.advice import fit, reading
from shared.advice.finding import Origin
from shared.advice.plan import Known
from shared.advice.training import rate
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from shared.tongues import Text, chinese

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: Samples below which the paper advises dropout.
FEW_ROWS = 10_000
#: Largest effective batch and batch of one device that are proposed.
MOST_BATCH, MOST_ROWS = 128, 8
#: Verdicts beside those of fit.py.
UNKNOWN, REFUSED = "unknown", "refused"
#: Steps of an epoch that are left at least.
STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Reason:
    value: Any
    why: str
    source: Origin

    def as_dict(self, field: str) -> dict[str, Any]:
        told = {"field": field, "value": self.value, "why": self.why, "source": self.source.value}
        return told | ({"zh": {"why": found}} if (found := chinese.sentence(self.why)) else {})


def recommend(given: Mapping[str, Any], known: Known, goal: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A body that posts as a job, and the reason for each value that was not given."""
    chosen: dict[str, Reason] = {}
    for choose in (_method, _size, _rate, _length, _validation, _records):
        chosen |= {name: why for name, why in choose(given, known, goal) if name not in given}
    chosen = _accepted(given, chosen)
    chosen |= {name: why for name, why in _fitting({**_values(chosen), **given}, known) if name not in given}
    reasons = [reason.as_dict(name) for name, reason in chosen.items()]
    return {**given, **_values(chosen)}, reasons


def _values(chosen: Mapping[str, Reason]) -> dict[str, Any]:
    return {name: reason.value for name, reason in chosen.items()}


def _accepted(given: Mapping[str, Any], chosen: dict[str, Reason]) -> dict[str, Reason]:
    """Without what the stage or method that was given has no use for."""
    try:
        schema.load(TrainSpec, {**given, **_values(chosen)})
    except InvalidSpec as error:
        refused = {complaint.field for complaint in error.complaints}
        return {name: reason for name, reason in chosen.items() if name not in refused}
    return chosen


Choices = Iterator[tuple[str, Reason]]


def _method(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    yield "stage", Reason(value="sft", why=Text("95 % of jobs are sft."), source=PAPER)
    yield "finetuning_type", Reason(value="lora", why=Text("LoRA comes first."), source=PAPER)
    yield "optim", Reason(value="adamw_torch", why=Text("One of the golden trio."), source=PAPER)
    yield "lr_scheduler_type", Reason(value="cosine", why=Text("Advised for production."), source=PAPER)
    yield "num_train_epochs", Reason(value=3.0, why=Text("Start with 3 and watch eval_loss."), source=PAPER)


def _size(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    """Rank by goal and size of the model."""
    if given.get("finetuning_type", "lora") != "lora":
        return
    yield "lora_target", Reason(value="all", why=Text("All linear layers: safe for most."), source=PAPER)
    billions = known.shape.num_weights / 1e9 if known.shape else 0
    if goal == "style":
        rank = 64 if billions >= 70 else 32 if billions >= 34 else 8
        why = Text("Style needs little: 8 to 16, from 32 for 34B, from 64 for 70B.")
    else:
        rank = 64 if billions >= 34 else 32
        why = Text("Knowledge needs capacity: 32 to 64, and from 34B on 64.")
    yield "lora_rank", Reason(value=rank, why=why, source=PAPER)
    rank = given.get("lora_rank", rank)
    if isinstance(rank, int):
        yield "lora_alpha", Reason(value=2 * rank, why=Text("2 x rank."), source=PAPER)
    rows = known.num_rows
    is_small = rows is not None and rows < FEW_ROWS
    why = Text("Under 10,000 samples: 0.05 to 0.1.") if is_small else Text("0 unless it over-fits.")
    yield "lora_dropout", Reason(value=0.05 if is_small else 0.0, why=why, source=PAPER)


def _rate(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    stage, method = given.get("stage", "sft"), given.get("finetuning_type", "lora")
    rates = stages.TABLE[stage].rates.get(method) if stage in stages.TABLE else None
    if rates is not None and stage in ("sft", "pt"):
        why = Text("The paper's safe start for {method}; LLaMA Factory's examples use {lf}.", method=method,
                   lf=rate(rates.lf))  # fmt: skip
        yield "learning_rate", Reason(value=rates.paper, why=why, source=PAPER)
    elif rates is not None:
        why = Text("What LLaMA Factory's examples use for {stage}; the paper's 5e-5 is for sft.", stage=stage)
        yield "learning_rate", Reason(value=rates.lf, why=why, source=REFERENCE)
    if "warmup_steps" not in given:
        yield "warmup_ratio", Reason(value=0.1, why=Text("5 to 10 % of all steps."), source=PAPER)
    has_bf16 = known.cards is None or known.cards.has_bf16
    if "bf16" not in given and "fp16" not in given:
        why = Text("Half the memory and time of float32.") if has_bf16 else Text("The cards are older than Ampere.")
        yield "bf16" if has_bf16 else "fp16", Reason(value=True, why=why, source=REFERENCE)


def _length(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    lengths = known.lengths or {}
    cutoff, why, source = 2048, Text("The lengths of the data are not known: the usual start."), REFERENCE
    if "p99" in lengths:
        cutoff, source = max(reading.rounded(int(lengths["p99"])), 64), PAPER
        why = Text("The P99 of the data's lengths, {p99} tokens.", p99=int(lengths["p99"]))
        billions = known.shape.num_weights / 1e9 if known.shape else 0
        if billions >= 30 and cutoff > 4096:
            cutoff, why = 4096, Text("34B and above: 2048 to 4096, though the P99 is {p99}.", p99=int(lengths["p99"]))
    if known.shape is not None and known.shape.max_length:
        cutoff = min(cutoff, known.shape.max_length)
    yield "cutoff_len", Reason(value=cutoff, why=why, source=source)
    mean = float(lengths.get("length_mean", 0))
    if mean and mean < cutoff / 4 and given.get("stage", "sft") in ("sft", "pt") and "packing" not in given:
        why = Text("Many short texts ({mean} of {cutoff} tokens): packed, and blind to each other.",
                   mean=round(mean), cutoff=cutoff)  # fmt: skip
        yield "neat_packing", Reason(value=True, why=why, source=REFERENCE)


def _validation(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    if "eval_dataset" in given or (known.num_rows is not None and known.num_rows < 2 * STEPS):
        return
    share = 0.1 if (known.num_rows or 0) < FEW_ROWS else 0.05
    yield "val_size", Reason(value=share, why=Text("Over-fitting is seen in eval_loss only."), source=PAPER)


def _records(given: Mapping[str, Any], known: Known, goal: str) -> Choices:
    rows, epochs = known.num_rows, given.get("num_train_epochs", 3)
    steps = None if rows is None or not isinstance(epochs, int | float) else epochs * rows / batch(rows)
    often = 10 if steps is None else max(1, min(10, int(steps // 20)))
    yield "logging_steps", Reason(value=often, why=Text("A loss curve needs points."), source=REFERENCE)
    yield "save_total_limit", Reason(value=3, why=Text("Checkpoints take disk."), source=REFERENCE)


def _fitting(body: Mapping[str, Any], known: Known) -> Choices:
    """Batch, sharing and number format: the first in the order of their cost that is estimated to fit."""
    count = known.cards.count if known.cards else 1
    target = batch(known.num_rows)
    tried: dict[str, Any] = {}
    for sharing, rows in _ways(count, target):
        steps = max(round(target / (rows * count)), 1)
        sizes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
        way = {**sharing, **sizes, "per_device_eval_batch_size": rows}
        verdict = _verdict({**way, **body}, known)
        tried = way if verdict != REFUSED or not tried else tried
        if verdict in (UNKNOWN, fit.FITS):
            break
    told = Text("estimated to fit") if known.shape and known.cards else Text("not estimated")
    for name, value in tried.items():
        yield name, Reason(value=value, why=_why(name, target, told), source=ESTIMATE)
    if known.cards and count > 1:
        for name, value in known.cards.spread(count).items():
            yield name, Reason(value=value, why=Text("All cards that there are."), source=ESTIMATE)


def batch(num_rows: int | None) -> int:
    """An effective batch that leaves STEPS steps an epoch: a power of two from 8 to MOST_BATCH."""
    most = MOST_BATCH if num_rows is None else max(num_rows // STEPS, 1)
    made = 32 if num_rows is None else 8
    while num_rows is not None and made * 2 <= min(most // 2, MOST_BATCH):
        made *= 2
    return min(made, max(most, 1))


def _ways(count: int, target: int) -> Iterator[tuple[dict[str, Any], int]]:
    ways: list[dict[str, Any]] = [{}]
    if count > 1:
        ways += [{"zero_stage": 2}, {"zero_stage": 3}]
    ways += [{"quantization_bit": 4}, {"deepspeed": "ds_z3_offload_config.json"}]
    for way in ways:
        rows = MOST_ROWS
        while rows >= 1:
            if rows * count <= target or rows == 1:
                yield way, rows
            rows //= 2


def _verdict(body: Mapping[str, Any], known: Known) -> str:
    """fit.py's three, or one of two more: it cannot be said, or no job may be so."""
    try:
        spec = schema.load(TrainSpec, body)
    except InvalidSpec:
        return REFUSED
    if known.shape is None or known.cards is None:
        return UNKNOWN
    longest = (known.lengths or {}).get("length_max")
    return fit.fit(spec, known.shape, known.cards, int(longest) if longest else None).verdict


def _why(name: str, target: int, told: Text) -> Text:
    words = {
        "zero_stage": Text("Shares among the cards as little as is needed: {told}.", told=told),
        "deepspeed": Text("Weights and optimizer on the host, the last resort: {told}.", told=told),
        "quantization_bit": Text("The base in 4 bits, because it does not fit whole: {told}.", told=told),
        "per_device_eval_batch_size": Text("As in training: the default of 8 keeps many logits."),
    }
    batch_words = Text(
        "For an effective batch of about {target}, the largest that is {told}.", target=target, told=told
    )
    return words.get(name, batch_words)
