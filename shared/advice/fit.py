"""Does a training fit the cards, and what is the smallest change that makes it fit?

Three answers, with a stated reserve: `fits` leaves RESERVE of the card free, which is more than the estimate errs on
average; `tight` fits by the estimate alone; `does_not_fit` does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared import deepspeed, schema
from shared.advice import footprint
from shared.advice.cards import Cards
from shared.advice.memory import GIB, Memory, Training, estimate, host_bytes
from shared.advice.shapes import Shape
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from shared.tongues import Text

RESERVE = 0.10
FITS, TIGHT, DOES_NOT_FIT = "fits", "tight", "does_not_fit"
#: Shortest text that is proposed, tokens.
SHORTEST = 512
#: Most cards that are proposed.
MOST_CARDS = 1024


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An estimate on cards."""

    training: Training
    memory: Memory
    cards: Cards

    @property
    def gib(self) -> float:
        return self.memory.total / GIB

    @property
    def host_gib(self) -> float:
        return max(host_bytes(self.training, self.cards.on_one_host)) / GIB

    @property
    def verdict(self) -> str:
        host = self.cards.host_memory_gib
        if self.gib > self.cards.gib or (host is not None and self.host_gib > host):
            return DOES_NOT_FIT
        return FITS if self.gib <= (1 - RESERVE) * self.cards.gib else TIGHT


@dataclass(frozen=True, kw_only=True)
class Change:
    #: Fields of the spec, as they are posted.
    patch: Mapping[str, Any]
    what: tuple[str, ...]
    fitted: Fitted


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change: as it is posted, in words, and the cards that it needs."""

    patch: Mapping[str, Any]
    what: str
    num_cards: int | None = None


def fit(spec: TrainSpec, shape: Shape, cards: Cards, length_max: int | None = None) -> Fitted:
    """The spec on these cards. Checkpointing is on only where it is needed, as the trainer decides it."""
    made = footprint.training(spec, shape, num_devices=cards.count, has_bf16=cards.has_bf16, length_max=length_max)
    if made.checkpointing:
        bare = Fitted(training=replace(made, checkpointing=False), memory=_without(made), cards=cards)
        if bare.verdict == FITS:
            return bare
    return Fitted(training=made, memory=estimate(made), cards=cards)


def _without(made: Training) -> Memory:
    return estimate(replace(made, checkpointing=False))


def nearest(spec: TrainSpec, shape: Shape, cards: Cards, length_max: int | None = None) -> Change | None:
    """The first change that makes it fit, alone or with one before it in the order; else all that help together."""
    steps = list(_steps(spec, shape, cards))
    for index, step in enumerate(steps):
        for chosen in ((step,), *((before, step) for before in steps[:index])):
            if (found := _tried(spec, shape, cards, chosen, length_max)) is not None:
                return found
    return _together(spec, shape, cards, steps, length_max)


def _together(spec: TrainSpec, shape: Shape, cards: Cards, steps: list[Step], length_max: int | None) -> Change | None:
    """Every step that lowers the estimate, one after another, until it fits."""
    chosen: tuple[Step, ...] = ()
    least = fit(spec, shape, cards, length_max).gib
    for step in steps:
        fitted = _fitted(spec, shape, cards, (*chosen, step), length_max)
        if fitted is None or fitted.gib >= least:
            continue
        chosen, least = (*chosen, step), fitted.gib
        if (found := _tried(spec, shape, cards, chosen, length_max)) is not None:
            return found
    return None


def _tried(
    spec: TrainSpec, shape: Shape, cards: Cards, chosen: tuple[Step, ...], length_max: int | None
) -> Change | None:
    fitted = _fitted(spec, shape, cards, chosen, length_max)
    if fitted is None or fitted.verdict != FITS or not _is_valid(spec, _merged(chosen)):
        return None
    return Change(patch=_merged(chosen), what=tuple(step.what for step in chosen), fitted=fitted)


def _fitted(
    spec: TrainSpec, shape: Shape, cards: Cards, chosen: tuple[Step, ...], length_max: int | None
) -> Fitted | None:
    counts = [step.num_cards for step in chosen if step.num_cards]
    wider = replace(cards, count=max([cards.count, *counts]))
    return fit(changed(spec, _merged(chosen)), shape, wider, length_max)


def _merged(chosen: tuple[Step, ...]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for step in chosen:
        patch |= step.patch
    return patch


def changed(spec: TrainSpec, patch: Mapping[str, Any]) -> TrainSpec:
    """The spec with a patch as it is posted; not checked."""
    values = dict(patch)
    if isinstance(preset := values.get("deepspeed"), str):
        values["deepspeed"] = deepspeed.preset(preset)
    return schema.changed(spec, values)


def _is_valid(spec: TrainSpec, patch: Mapping[str, Any]) -> bool:
    given = {name: value for name, value in schema.to_wire(spec).items() if value != schema.MASK}
    try:
        schema.load(TrainSpec, {**given, **patch})
    except InvalidSpec:
        return False
    return True


def _steps(spec: TrainSpec, shape: Shape, cards: Cards) -> Iterator[Step]:
    """Changes in the order in which they are to be preferred: what costs nothing first, more cards last."""
    if spec.model.disable_gradient_checkpointing:
        yield Step(patch={"disable_gradient_checkpointing": False}, what=Text("turn gradient checkpointing on"))
    yield from _smaller_batches(spec)
    if spec.model.flash_attn == "disabled" and not shape.caps_scores:
        yield Step(patch={"flash_attn": "auto"}, what=Text("use a fused attention kernel"))
    yield from _sharding(spec, cards)
    is_lora = spec.tuning.finetuning_type == "lora"
    if is_lora and spec.model.quantization_bit != 4:
        stage = min(footprint.zero_stage(spec) or 0, 2)
        patch = {"quantization_bit": 4} | (sharded(spec, stage) if footprint.zero_stage(spec) == 3 else {})
        yield Step(patch=patch, what=Text("load the base in 4 bits (QLoRA)"))
    if not is_lora and not spec.tuning.pure_bf16 and cards.has_bf16:
        yield Step(patch={"pure_bf16": True, "bf16": False}, what=Text("train in pure bfloat16"))
    yield from _shorter(spec)
    yield from _offloads(spec, cards)
    if not is_lora:
        yield Step(patch={"finetuning_type": "lora"}, what=Text("train an adapter (LoRA) instead of all weights"))
    yield from _more_cards(spec, cards)


def _smaller_batches(spec: TrainSpec) -> Iterator[Step]:
    size, steps = spec.train.per_device_train_batch_size, spec.train.gradient_accumulation_steps
    for smaller in (n for n in range(size - 1, 0, -1) if size % n == 0):
        patch = {"per_device_train_batch_size": smaller, "gradient_accumulation_steps": steps * size // smaller}
        told = {"smaller": smaller, "more": steps * size // smaller, "size": size, "steps": steps}
        yield Step(patch=patch, what=Text("{smaller} x {more} instead of {size} x {steps}", **told))


def _sharding(spec: TrainSpec, cards: Cards) -> Iterator[Step]:
    for stage in (2, 3):
        if cards.count > 1 and (footprint.zero_stage(spec) or 0) < stage:
            yield Step(patch=sharded(spec, stage), what=Text("share by ZeRO-{stage}", stage=stage))


def sharded(spec: TrainSpec, stage: int, offload: str = "none") -> dict[str, Any]:
    """The patch for a ZeRO stage, said as the spec says it."""
    given = spec.distributed
    if given.deepspeed is not None:
        ending = "" if offload == "none" else "_offload"
        return {"deepspeed": f"ds_z{stage}{ending}_config.json", "zero_stage": None}
    return {"zero_stage": stage} | ({"zero_offload": offload} if offload != given.zero_offload else {})


def _shorter(spec: TrainSpec) -> Iterator[Step]:
    cutoff = spec.data.cutoff_len
    while cutoff // 2 >= SHORTEST:
        cutoff //= 2
        yield Step(patch={"cutoff_len": cutoff}, what=Text("cut texts at {cutoff} tokens", cutoff=cutoff))


def _offloads(spec: TrainSpec, cards: Cards) -> Iterator[Step]:
    if footprint.offload(spec) == "none" and footprint.zero_stage(spec) != 3:
        yield Step(patch=sharded(spec, 2, "optimizer"), what=Text("offload the optimizer to the host (ZeRO-2)"))
    if footprint.offload(spec) != "optimizer+params":
        yield Step(
            patch=sharded(spec, 3, "optimizer+params"), what=Text("offload optimizer and weights to the host (ZeRO-3)")
        )


def _more_cards(spec: TrainSpec, cards: Cards) -> Iterator[Step]:
    count = cards.count * 2
    while count <= min(64 * cards.count, MOST_CARDS):
        is_quantized = spec.model.quantization_bit is not None
        nodes = {"num_nodes": 1} if spec.distributed.num_nodes > 1 else {}
        spread = {"ray_num_workers": count, "num_processes": None} if spec.distributed.use_ray else cards.spread(count)
        patch = {**nodes, **spread, **sharded(spec, 2 if is_quantized else 3)}
        yield Step(patch=patch, what=Text("share among {count} cards", count=count), num_cards=count)
        count *= 2
