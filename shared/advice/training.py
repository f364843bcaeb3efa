"""Remarks on the knobs of a training: learning rate, schedule, batch, adapter, data, validation, tracking."""

from __future__ import annotations

from collections.abc import Iterator

from shared import stages
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import DeploySpec, Freeze, Lora

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE


def learning_rate(case: Case) -> Iterator[Finding]:
    method, train = case.spec.tuning.finetuning_type, case.spec.train
    rates = stages.get(case.spec.tuning.stage).rates[method]
    golden = train.learning_rate == 5e-5 and train.optim == "adamw_torch" and train.lr_scheduler_type == "cosine"
    if golden and method == "lora":
        yield info("learning_rate", PAPER, "5e-5 with adamw_torch and cosine is the golden trio.")
        text = f"LLaMA Factory's own examples of LoRA in this stage use {_rate(rates.lf)}; 5e-5 learns more slowly."
        yield info("learning_rate", REFERENCE, text, f"5e-5 is safe; try {_rate(rates.lf)} when the loss falls slowly.")
    if not rates.low <= train.learning_rate <= rates.high:
        side, effect = ("above", "may diverge") if train.learning_rate > rates.high else ("below", "may stall")
        usual = f"{_rate(rates.low)} to {_rate(rates.high)}"
        text = f"{_rate(train.learning_rate)} is {side} what is usual for {method} ({usual}): training {effect}."
        yield warning(
            "learning_rate", REFERENCE, text, f"Start with {_rate(rates.paper)} (the paper) or {_rate(rates.lf)}."
        )


def schedule(case: Case) -> Iterator[Finding]:
    train = case.spec.train
    if train.lr_scheduler_type not in {"cosine", "cosine_with_restarts"}:
        text = f"The learning rate follows {train.lr_scheduler_type!r}; cosine is advised for production."
        yield info("lr_scheduler_type", PAPER, text, "Set lr_scheduler_type to cosine.")
    if train.warmup_steps == 0 and train.warmup_ratio == 0:
        steps = case.total_steps
        count = f": {max(steps // 20, 1)} to {max(steps // 10, 1)} of about {steps}" if steps else ""
        text = "There is no warmup: the first steps, the least stable ones, run at the full learning rate."
        advice = f"Warm up for 5 to 10 % of all steps{count}, or set warmup_ratio to 0.05."
        yield warning("warmup_steps", PAPER, text, advice)
    elif case.total_steps and train.warmup_steps > case.total_steps / 2:
        text = f"{train.warmup_steps} of about {case.total_steps} steps are warmup: the full rate is hardly reached."
        yield warning("warmup_steps", ESTIMATE, text, f"Set warmup_steps to {max(case.total_steps // 20, 1)}.")


def batch(case: Case) -> Iterator[Finding]:
    train, rows = case.spec.train, case.train_rows
    sizes = f"{train.per_device_train_batch_size} x {train.gradient_accumulation_steps} x {case.num_devices}"
    accumulates = train.gradient_accumulation_steps > 1
    why = " Accumulation trades time for memory." if accumulates else ""
    yield info("gradient_accumulation_steps", PAPER, f"The effective batch is {sizes} = {case.effective_batch}.{why}")
    if case.zero_stage == 3 and accumulates and train.per_device_train_batch_size == 1:
        larger = min(8, train.gradient_accumulation_steps)
        fewer = train.gradient_accumulation_steps // larger
        text = f"ZeRO-3 gathers all weights for each of the {train.gradient_accumulation_steps} small steps."
        advice = f"{larger} x {fewer} gives the same batch with 1/{larger} of the gathers, when it fits in memory."
        yield info("per_device_train_batch_size", ESTIMATE, text, advice)
    if rows is not None and case.effective_batch > rows / 20:
        text = f"A batch of {case.effective_batch} leaves fewer than 20 steps an epoch for {rows} rows."
        yield warning("gradient_accumulation_steps", REFERENCE, text, "Lower accumulation, or train more epochs.")


def epochs(case: Case) -> Iterator[Finding]:
    train = case.spec.train
    if train.max_steps < 0 and train.num_train_epochs > 10:
        text = f"{train.num_train_epochs:g} epochs over-fit most data."
        yield warning("num_train_epochs", PAPER, text, "Start with 3 and watch eval_loss.")
    if (steps := case.total_steps) is not None:
        yield info("num_train_epochs", ESTIMATE, f"The training takes about {steps} steps.")
        if train.logging_steps > steps:
            text = f"Metrics come every {train.logging_steps} steps, but there are about {steps}: no loss curve."
            yield warning("logging_steps", ESTIMATE, text, f"Set logging_steps to {max(1, min(10, steps // 20))}.")


def adapter(case: Case) -> Iterator[Finding]:
    if case.spec.tuning.finetuning_type != "lora":
        return
    lora = case.spec.lora
    yield from _rank(case)
    alpha = lora.alpha or 2 * lora.rank
    if alpha == 2 * lora.rank:
        yield info("lora_alpha", PAPER, f"alpha {alpha} = 2 x rank {lora.rank}: sound.")
    else:
        text = f"alpha {alpha} is {alpha / lora.rank:g} x rank {lora.rank}; 2 x rank is advised."
        yield warning("lora_alpha", PAPER, text, f"Set lora_alpha to {2 * lora.rank}, or leave it out.")
    rows = case.train_rows
    if lora.dropout == 0 and rows is not None and rows < 10_000:
        text = f"There are {rows} rows, under 10,000, and no dropout in the adapter."
        yield info("lora_dropout", PAPER, text, "Set lora_dropout to 0.05 to 0.1 if it over-fits.")


def _rank(case: Case) -> Iterator[Finding]:
    rank, billions = case.spec.lora.rank, case.billions
    if rank <= 16:
        text = f"Rank {rank} is light: it aims at style and format, not at knowledge."
        yield info("lora_rank", PAPER, text, "For new knowledge: 32 to 64.")
    least = 64 if billions and billions >= 70 else 32 if billions and billions >= 34 else 0
    if rank < least:
        yield info("lora_rank", PAPER, f"For a model of {billions:g}B rank {least} and above is advised.")
    if billions and billions >= 30:
        text = "The parameters of each rank grow with the model already: the rank follows data and task, not size."
        yield info("lora_rank", REFERENCE, text, "Raise it when the loss stays high with a sound learning rate.")
    served = DeploySpec(model="").vllm_max_lora_rank
    if rank > served:
        text = f"Rank {rank} is above {served}, the largest that a deployment serves unmerged by default."
        yield warning("lora_rank", REFERENCE, text, "Export the adapter merged, or raise vllm_max_lora_rank.")


def unused(case: Case) -> Iterator[Finding]:
    """Fields of another method: accepted, because LF's files carry them along, but without effect."""
    method, lora, freeze = case.spec.tuning.finetuning_type, case.spec.lora, case.spec.freeze
    if method != "lora" and (lora.rank, lora.dropout, lora.target) != (Lora().rank, Lora().dropout, Lora().target):
        text = f"Fields of LoRA are given, but finetuning_type is {method}: they have no effect."
        yield warning("lora_rank", REFERENCE, text, "Set finetuning_type to lora, or leave them out.")
    if method != "freeze" and freeze != Freeze():
        text = f"Fields of freeze are given, but finetuning_type is {method}: they have no effect."
        yield warning("freeze_trainable_layers", REFERENCE, text, "Set finetuning_type to freeze, or leave them out.")
    spread = case.spec.distributed
    if spread.ray_num_workers > 1 and not spread.use_ray:
        text = f"ray_num_workers {spread.ray_num_workers} has no effect without use_ray: processes start by torchrun."
        yield warning("use_ray", REFERENCE, text, f"Set num_processes to {spread.ray_num_workers} for as many devices.")


def length(case: Case) -> Iterator[Finding]:
    cutoff, train = case.spec.data.cutoff_len, case.spec.train
    if cutoff <= 1024:
        text = f"cutoff_len {cutoff} is conservative; longer text is paid for with batch size."
        yield info("cutoff_len", PAPER, text, "Choose it from the P95 to P99 of the data's lengths.")
        if train.per_device_train_batch_size == 1:
            text = "The batch per device is 1 already: longer text can only be paid for with checkpointing or offload."
            yield info("cutoff_len", ESTIMATE, text)
    if case.spec.data.packing and not case.spec.data.neat_packing:
        yield info("packing", PAPER, "Packing is strongly advised where there are many short texts.")
        text = "Plain packing lets the samples of a sequence attend to each other."
        yield warning("packing", REFERENCE, text, "Set neat_packing to true.")


def validation(case: Case) -> Iterator[Finding]:
    if not case.validates:
        text = "There is no validation: convergence and over-fitting cannot be judged."
        yield warning("val_size", PAPER, text, "Set val_size to 0.05 to 0.1 and watch eval_loss.")
        if case.spec.tuning.compute_accuracy:
            yield warning("compute_accuracy", REFERENCE, "Accuracy is computed only when validating.")
    elif case.spec.tuning.compute_accuracy:
        yield info("compute_accuracy", REFERENCE, "This is the accuracy of tokens; it keeps the logits.")


def tracking(case: Case) -> Iterator[Finding]:
    if set(case.spec.output.report_to) <= {"none"}:
        text = "No experiment tracker is attached; tracking is strongly recommended for every experiment."
        yield info("report_to", PAPER, text, "Compare runs by their loss curves.")
        text = "The platform records every metric of the job as events; the console draws the loss curves."
        yield info("report_to", REFERENCE, text)


def template(case: Case) -> Iterator[Finding]:
    named, model = case.spec.data.template, case.spec.model.model_name_or_path.lower()
    if named is None:
        yield info("template", REFERENCE, "The model's own chat template is used: the safe choice.")
        return
    yield info("template", PAPER, "The template must match the model's own: a wrong one ruins the model silently.")
    newer = {"llama2": ("llama-3", "llama3", "llama-4"), "qwen": ("qwen3",), "gemma": ("gemma-4", "gemma4")}
    if any(part in model for part in newer.get(named, ())):
        text = f"Template {named!r} is of an older family than the model's name says."
        yield warning("template", REFERENCE, text, "Leave template out: the model's own decides.")


def _rate(value: float) -> str:
    """As people write learning rates: 5e-5."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


CHECKS = (
    learning_rate, schedule, batch, epochs, adapter, unused, length, validation, tracking, template,
)  # fmt: skip
