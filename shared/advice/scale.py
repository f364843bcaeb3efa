"""Remarks on size: what the model's weights mean for method, precision, sharding and the cards they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.advice import footprint
from shared.advice.case import MIXED_BYTES, PURE_BF16_BYTES, Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.fit import DOES_NOT_FIT, FITS
from shared.tongues import Text

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: From here on the paper calls LoRA the only realistic method, billions.
LARGE = 32
#: Cards that are spoken of where none are named: GiB of the common 40 and 80 GB ones.
COMMON = {40: 39.4, 80: 79.2}
#: Words of a verdict.
VERDICTS = {"fits": Text("fits"), "tight": Text("is tight"), "does_not_fit": Text("does not fit")}


def base(case: Case) -> Iterator[Finding]:
    size = case.billions
    if size is None:
        return
    if 30 <= size < 70:
        text = Text("A base of {size} is a good choice for middle and large tasks.", size=case.size)
        yield info("model_name_or_path", PAPER, text)
    if size >= 70 and case.spec.tuning.stage == "sft":
        yield info("stage", PAPER, Text("For 70B and above consider pt first, then sft."))


def method(case: Case) -> Iterator[Finding]:
    size, kind = case.billions, case.spec.tuning.finetuning_type
    if size is None:
        return
    if size >= LARGE:
        severity = info if kind == "lora" else warning
        text = Text("From {large}B on LoRA is the only realistic method.", large=LARGE)
        yield severity("finetuning_type", PAPER, text)
        yield _full(case)
    elif kind == "lora" and 3 <= size < 15:
        text = Text("LoRA of a model of this size ({size}) runs on one card.", size=case.size)
        yield info("finetuning_type", PAPER, text)
    elif kind == "full":
        text = Text("LoRA comes first: full training is for where an adapter is shown to be too little.")
        yield info("finetuning_type", PAPER, text)
        if case.num_devices == 1 and size >= 3:
            text = Text(
                "Full training of {size} takes about {gib} GiB on one device.",
                size=case.size, gib=f"{case.full_gib(MIXED_BYTES[0]):.0f}",
            )  # fmt: skip
            yield warning("finetuning_type", ESTIMATE, text, Text("Use lora, or more devices with zero_stage 3."))


def _full(case: Case) -> Finding:
    low, high = (f"{case.full_gib(count):.0f}" for count in MIXED_BYTES)
    text = Text(
        "Full training shared by {num_devices} devices takes a device about {pure} GiB in pure bf16, {low} to {high} "
        "GiB in mixed precision, before activations.",
        num_devices=case.num_devices, pure=f"{case.full_gib(PURE_BF16_BYTES):.0f}", low=low, high=high,
    )  # fmt: skip
    return info("finetuning_type", ESTIMATE, text, Text("LoRA is the usual choice; full is possible where that fits."))


def sharding(case: Case) -> Iterator[Finding]:
    stage, devices = case.zero_stage, case.num_devices
    field = "deepspeed" if case.spec.distributed.deepspeed is not None else "zero_stage"
    if stage > 0 and devices == 1 and footprint.offload(case.spec) == "none":
        text = Text("ZeRO-{stage} shares nothing on one device.", stage=stage)
        yield warning(field, ESTIMATE, text, Text("Leave it out, or raise num_processes."))
    elif stage == 3:
        text = Text(
            "Stage 3 shares parameters, gradients and optimizer among {devices} devices: what makes it possible.",
            devices=devices,
        )
        yield info(field, PAPER, text)
        yield from _cards(case, field)
    elif stage == 0 and devices > 1 and case.billions and case.frozen_gib(0) > 70:
        text = Text(
            "The weights alone take {gib} GiB on each of {devices} devices.",
            gib=f"{case.frozen_gib(0):.0f}", devices=devices,
        )  # fmt: skip
        yield warning("zero_stage", ESTIMATE, text, Text("Set zero_stage to 3."))


def _cards(case: Case, field: str) -> Iterator[Finding]:
    """Whether stage 3 is needed depends on the card: say the figures."""
    if case.shape is not None:
        yield from _estimated(case, field)
    elif case.billions is not None and case.spec.tuning.finetuning_type == "lora":
        yield _by_weights(case, field)


def _estimated(case: Case, field: str) -> Iterator[Finding]:
    two: dict[str, Any] = {"deepspeed": None, "zero_stage": 2, "zero_offload": "none"}
    needs = {stage: case.on(**(two | {"zero_stage": stage})) for stage in (0, 1, 2, 3)}
    told = ", ".join(f"{stage}: {made.gib:.0f}" for stage, made in needs.items() if made is not None)
    text = Text("Memory of a device by ZeRO stage, GiB: {told}.", told=told)
    names = {size: case.on(memory_gib=gib, **two) for size, gib in COMMON.items()}
    if case.fitted is not None and (made := case.on(**two)) is not None:
        is_needed = made.verdict == DOES_NOT_FIT
        where = Text("on these {cards}", cards=case.fitted.cards.words)
    else:
        is_needed = all(made is None or made.verdict == DOES_NOT_FIT for made in names.values())
        where = _where(names)
    if is_needed:
        yield info(field, ESTIMATE, Text("{text} Stage 3 is needed {where}.", text=text, where=where))
    else:
        advice = Text("Stage 2 does without the gathers of all weights.")
        yield info(field, ESTIMATE, Text("{text} Stage 3 is not needed {where}.", text=text, where=where), advice)


def _where(names: Mapping[int, object]) -> Text:
    fitting = [size for size, made in names.items() if getattr(made, "verdict", "") in (FITS, "tight")]
    if len(fitting) == len(COMMON):
        return Text("on cards of 40 and of 80 GB")
    return Text("on 80 GB cards, but on 40 GB ones it is") if fitting else Text("on cards of 40 and of 80 GB")


def _by_weights(case: Case, field: str) -> Finding:
    whole, shared = case.frozen_gib(2), case.frozen_gib(3)
    text = Text(
        "The frozen weights take about {whole} GiB a device with stage 0, 1 or 2, and {shared} GiB with stage 3, "
        "before activations:",
        whole=f"{whole:.0f}", shared=f"{shared:.0f}",
    )  # fmt: skip
    if whole > 70:
        needed = Text("{text} stage 3 is needed on cards of 40 and of 80 GB.", text=text)
        return info(field, ESTIMATE, needed)
    if whole > 35:
        needed = Text("{text} stage 3 is needed on 40 GB cards, not on 80 GB ones.", text=text)
        advice = Text("On 80 GB cards stage 2 avoids the gathers, when activations fit beside the weights.")
        return info(field, ESTIMATE, needed, advice)
    return info(field, ESTIMATE, Text("{text} stage 3 is not needed.", text=text), Text("Stage 2 gathers less."))


def precision(case: Case) -> Iterator[Finding]:
    train, model = case.spec.train, case.spec.model
    if not (train.bf16 or train.fp16 or case.spec.tuning.pure_bf16):
        text = Text("Neither bf16 nor fp16 is set: on a card float32 takes twice the memory and time.")
        yield warning("bf16", REFERENCE, text, Text("Set bf16 to true; fp16 on cards older than Ampere."))
    if model.quantization_bit is not None:
        text = Text("An adapter trained on a quantized base merges inexactly into the full one.")
        yield info("quantization_bit", REFERENCE, text, Text("Compare the merged model, or serve the adapter."))
    elif case.billions and case.billions >= 7 and case.num_devices == 1:
        text = Text(
            "The weights take {gib} GiB; with quantization_bit 4 about a quarter.", gib=f"{case.frozen_gib(0):.0f}"
        )
        yield info("quantization_bit", PAPER, text, Text("Needed for 7B and above on cards of 16 GB or less."))
    if model.disable_gradient_checkpointing and case.billions and case.billions >= 7:
        text = Text("Gradient checkpointing is off: all activations stay in memory.")
        advice = Text("Never disable it when memory is tight.")
        yield warning("disable_gradient_checkpointing", PAPER, text, advice)


CHECKS = (base, method, sharding, precision)
