"""Remarks on size: what the model's weights mean for method, precision, sharding and the cards they need."""

from __future__ import annotations

from collections.abc import Iterator

from shared.advice.case import MIXED_BYTES, PURE_BF16_BYTES, Case
from shared.advice.finding import Finding, Origin, info, warning

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: From here on the paper calls LoRA the only realistic method, billions.
LARGE = 32


def base(case: Case) -> Iterator[Finding]:
    size = case.billions
    if size is None:
        return
    if 30 <= size < 70:
        yield info("model_name_or_path", PAPER, f"A base of {size:g}B is a good choice for middle and large tasks.")
    if size >= 70 and case.spec.tuning.stage == "sft":
        yield info("stage", PAPER, "For 70B and above consider pt first, then sft.")


def method(case: Case) -> Iterator[Finding]:
    size, kind = case.billions, case.spec.tuning.finetuning_type
    if size is None:
        return
    if size >= LARGE:
        severity = info if kind == "lora" else warning
        yield severity("finetuning_type", PAPER, f"From {LARGE}B on LoRA is the only realistic method.")
        low, high = (case.full_gib(count) for count in MIXED_BYTES)
        text = (
            f"Full training shared by {case.num_devices} devices takes a device about "
            f"{case.full_gib(PURE_BF16_BYTES):.0f} GiB in pure bf16, {low:.0f} to {high:.0f} GiB in mixed precision, "
            "before activations."
        )
        yield info("finetuning_type", ESTIMATE, text, "LoRA is the usual choice; full is possible where that fits.")
    elif kind == "full" and case.num_devices == 1 and size >= 3:
        text = f"Full training of {size:g}B takes about {case.full_gib(MIXED_BYTES[0]):.0f} GiB on one device."
        yield warning("finetuning_type", ESTIMATE, text, "Use lora, or more devices with zero_stage 3.")


def sharding(case: Case) -> Iterator[Finding]:
    stage, devices = case.zero_stage, case.num_devices
    field = "deepspeed" if case.spec.distributed.deepspeed is not None else "zero_stage"
    if stage > 0 and devices == 1:
        text = f"ZeRO-{stage} shares nothing on one device."
        yield warning(field, ESTIMATE, text, "Leave it out, or raise num_processes.")
    elif stage == 3:
        text = f"Stage 3 shares parameters, gradients and optimizer among {devices} devices: what makes it possible."
        yield info(field, PAPER, text)
        yield from _cards(case, field)
    elif stage == 0 and devices > 1 and case.billions and case.frozen_gib(0) > 70:
        text = f"The weights alone take {case.frozen_gib(0):.0f} GiB on each of {devices} devices."
        yield warning("zero_stage", ESTIMATE, text, "Set zero_stage to 3.")


def _cards(case: Case, field: str) -> Iterator[Finding]:
    """Whether stage 3 is needed depends on the card: say the figures."""
    if case.billions is None or case.spec.tuning.finetuning_type != "lora":
        return
    whole, shared = case.frozen_gib(2), case.frozen_gib(3)
    text = (
        f"The frozen weights take about {whole:.0f} GiB a device with stage 0, 1 or 2, and {shared:.0f} GiB with "
        "stage 3, before activations: "
    )
    if whole > 70:
        yield info(field, ESTIMATE, f"{text}stage 3 is needed on cards of 40 and of 80 GB.")
    elif whole > 35:
        advice = "On 80 GB cards stage 2 avoids the gathers, when activations fit beside the weights."
        yield info(field, ESTIMATE, f"{text}stage 3 is needed on 40 GB cards, not on 80 GB ones.", advice)
    else:
        yield info(field, ESTIMATE, f"{text}stage 3 is not needed.", "Stage 2 gathers less.")


def precision(case: Case) -> Iterator[Finding]:
    train, model = case.spec.train, case.spec.model
    if not (train.bf16 or train.fp16 or case.spec.tuning.pure_bf16):
        text = "Neither bf16 nor fp16 is set: float32 takes twice the memory and time."
        yield warning("bf16", REFERENCE, text, "Set bf16 to true; fp16 on cards older than Ampere.")
    if model.quantization_bit is not None:
        text = "An adapter trained on a quantized base merges inexactly into the full one."
        yield info("quantization_bit", REFERENCE, text, "Compare the merged model, or serve the adapter.")
    elif case.billions and case.billions >= 7 and case.num_devices == 1:
        text = f"The weights take {case.frozen_gib(0):.0f} GiB; with quantization_bit 4 about a quarter."
        yield info("quantization_bit", PAPER, text, "Needed for 7B and above on cards of 16 GB or less.")
    if model.disable_gradient_checkpointing and case.billions and case.billions >= 7:
        text = "Gradient checkpointing is off: all activations stay in memory."
        yield warning("disable_gradient_checkpointing", PAPER, text, "Never disable it when memory is tight.")


CHECKS = (base, method, sharding, precision)
