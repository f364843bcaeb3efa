"""Remarks on the knobs of a training: learning rate, schedule, batch, length, data, validation, tracking."""

from __future__ import annotations

from collections.abc import Iterator

from shared import stages
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.fit import FITS
from shared.templates import families
from shared.tongues import Text

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: Length that the paper calls balanced for 7B on cards of 24 GB, and the longest usual one from 34B on, tokens.
BALANCED = 4096


def learning_rate(case: Case) -> Iterator[Finding]:
    method, train = case.spec.tuning.finetuning_type, case.spec.train
    rates = stages.get(case.spec.tuning.stage).rates[method]
    golden = train.learning_rate == 5e-5 and train.optim == "adamw_torch" and train.lr_scheduler_type == "cosine"
    if golden and method == "lora":
        yield info("learning_rate", PAPER, Text("5e-5 with adamw_torch and cosine is the golden trio."))
        yield _of_the_stage(rates.lf)
    elif method == "full" and rates.paper is not None and train.learning_rate > rates.paper:
        text = Text("Full training wants a rate ten times lower than LoRA: {paper}.", paper=rate(rates.paper))
        advice = Text("LLaMA Factory's own examples use {lf}.", lf=rate(rates.lf))
        yield info("learning_rate", PAPER, text, advice)
    if not rates.low <= train.learning_rate <= rates.high:
        yield _unusual(train.learning_rate, method, rates)


def _of_the_stage(lf: float) -> Finding:
    if lf >= 5e-5:
        text = Text(
            "LLaMA Factory's own examples of LoRA in this stage use {lf}; 5e-5 learns more slowly.", lf=rate(lf)
        )
        advice = Text("5e-5 is safe; try {lf} when the loss falls slowly.", lf=rate(lf))
    else:
        text = Text("The golden rate is that of sft: LLaMA Factory's own examples of this stage use {lf}.", lf=rate(lf))
        advice = Text("Set learning_rate to {lf}.", lf=rate(lf))
    return info("learning_rate", REFERENCE, text, advice)


def _unusual(given: float, method: str, rates: stages.Rates) -> Finding:
    usual = {"given": rate(given), "method": method, "low": rate(rates.low), "high": rate(rates.high)}
    if given > rates.high:
        text = Text("{given} is above what is usual for {method} ({low} to {high}): training may diverge.", **usual)
    else:
        text = Text("{given} is below what is usual for {method} ({low} to {high}): training may stall.", **usual)
    advice = Text("Start with {lf}.", lf=rate(rates.lf))
    if rates.paper is not None:
        advice = Text("Start with {paper} (the paper) or {lf}.", paper=rate(rates.paper), lf=rate(rates.lf))
    return warning("learning_rate", REFERENCE, text, advice)


def schedule(case: Case) -> Iterator[Finding]:
    train = case.spec.train
    if train.lr_scheduler_type not in {"cosine", "cosine_with_restarts"}:
        text = Text(
            "The learning rate follows {name!r}; cosine is advised for production.", name=train.lr_scheduler_type
        )
        yield info("lr_scheduler_type", PAPER, text, Text("Set lr_scheduler_type to cosine."))
    steps = case.total_steps
    if train.warmup_steps == 0 and train.warmup_ratio == 0:
        text = Text("There is no warmup: the first steps, the least stable ones, run at the full learning rate.")
        advice = Text("Warm up for 5 to 10 % of all steps, or set warmup_ratio to 0.05.")
        if steps:
            advice = Text(
                "Warm up for 5 to 10 % of all steps: {low} to {high} of about {steps}, or set warmup_ratio to 0.05.",
                low=max(steps // 20, 1), high=max(steps // 10, 1), steps=steps,
            )  # fmt: skip
        yield warning("warmup_steps", PAPER, text, advice)
    elif steps and train.warmup_steps > steps / 2:
        text = Text("{warmup} of about {steps} steps are warmup: the full rate is hardly reached.",
                    warmup=train.warmup_steps, steps=steps)  # fmt: skip
        yield warning("warmup_steps", ESTIMATE, text, Text("Set warmup_steps to {few}.", few=max(steps // 20, 1)))


def batch(case: Case) -> Iterator[Finding]:
    train, rows = case.spec.train, case.train_rows
    size, steps = train.per_device_train_batch_size, train.gradient_accumulation_steps
    text = Text("The effective batch is {size} x {steps} x {devices} = {batch}.", size=size, steps=steps,
                devices=case.num_devices, batch=case.effective_batch)  # fmt: skip
    why = Text("Accumulation trades time for memory.") if steps > 1 else ""
    yield info("gradient_accumulation_steps", PAPER, text, why)
    if case.zero_stage == 3 and steps > 1 and size == 1:
        yield from _gathers(case)
    if rows is not None and case.effective_batch > rows / 20:
        text = Text("A batch of {batch} leaves fewer than 20 steps an epoch for {rows} rows.",
                    batch=case.effective_batch, rows=rows)  # fmt: skip
        yield warning("gradient_accumulation_steps", REFERENCE, text, Text("Lower accumulation, or train more epochs."))


def _gathers(case: Case) -> Iterator[Finding]:
    """The same batch in fewer small steps, as far as it fits."""
    steps = case.spec.train.gradient_accumulation_steps
    sizes = [size for size in (8, 4, 2) if steps % size == 0]
    if case.fitted is not None:
        sizes = [size for size in sizes if _fits(case, size)]
    if sizes:
        text = Text("ZeRO-3 gathers all weights for each of the {steps} small steps.", steps=steps)
        advice = Text("{size} x {fewer} gives the same batch with 1/{size} of the gathers, when it fits in memory.",
                      size=sizes[0], fewer=steps // sizes[0])  # fmt: skip
        yield info("per_device_train_batch_size", ESTIMATE, text, advice)


def _fits(case: Case, size: int) -> bool:
    made = case.on(per_device_train_batch_size=size)
    return made is None or made.verdict == FITS


def epochs(case: Case) -> Iterator[Finding]:
    train = case.spec.train
    if train.max_steps < 0 and train.num_train_epochs > 10:
        text = Text("{epochs} epochs over-fit most data.", epochs=f"{train.num_train_epochs:g}")
        yield warning("num_train_epochs", PAPER, text, Text("Start with 3 and watch eval_loss."))
    if (steps := case.total_steps) is not None:
        yield info("num_train_epochs", ESTIMATE, Text("The training takes about {steps} steps.", steps=steps))
        if train.logging_steps > steps:
            text = Text("Metrics come every {every} steps, but there are about {steps}: no loss curve.",
                        every=train.logging_steps, steps=steps)  # fmt: skip
            advice = Text("Set logging_steps to {few}.", few=max(1, min(10, steps // 20)))
            yield warning("logging_steps", ESTIMATE, text, advice)


def length(case: Case) -> Iterator[Finding]:
    cutoff, train, size = case.spec.data.cutoff_len, case.spec.train, case.billions or 0
    if cutoff <= 1024:
        text = Text("cutoff_len {cutoff} is conservative; longer text is paid for with batch size.", cutoff=cutoff)
        yield info("cutoff_len", PAPER, text, Text("Choose it from the P95 to P99 of the data's lengths."))
        if train.per_device_train_batch_size == 1:
            yield info("cutoff_len", ESTIMATE, _price(case))
    elif cutoff > BALANCED and size >= 30:
        text = Text("From 34B on 2048 to 4096 tokens are usual; {cutoff} is paid for with batch size.", cutoff=cutoff)
        yield info("cutoff_len", PAPER, text)
    elif cutoff > BALANCED and 6 <= size < 9 and (case.cards is None or case.cards.gib <= 24):
        text = Text("4096 tokens are the balance of 7B on cards of 24 GB; this is {cutoff}.", cutoff=cutoff)
        yield info("cutoff_len", PAPER, text)


def _price(case: Case) -> Text:
    text = Text("The batch per device is 1 already: longer text can only be paid for with checkpointing or offload.")
    now, longer = case.on(), case.on(cutoff_len=4 * case.spec.data.cutoff_len)
    if now is None or longer is None:
        return text
    return Text("{text} Four times as long takes {longer} GiB a device instead of {now}.", text=text,
                longer=f"{longer.gib:.0f}", now=f"{now.gib:.0f}")  # fmt: skip


def packing(case: Case) -> Iterator[Finding]:
    if case.spec.data.packing and not case.spec.data.neat_packing:
        yield info("packing", PAPER, Text("Packing is strongly advised where there are many short texts."))
        text = Text("Plain packing lets the samples of a sequence attend to each other.")
        yield warning("packing", REFERENCE, text, Text("Set neat_packing to true."))


def validation(case: Case) -> Iterator[Finding]:
    is_scored = stages.get(case.spec.tuning.stage).asks  # every step scores new answers
    if not case.validates and not is_scored:
        text = Text("There is no validation: convergence and over-fitting cannot be judged.")
        yield warning("val_size", PAPER, text, Text("Set val_size to 0.05 to 0.1 and watch eval_loss."))
    if case.spec.tuning.compute_accuracy:
        text = Text("This is the accuracy of tokens, not of a classification; it needs the logits.")
        yield info("compute_accuracy", REFERENCE, text)


def tracking(case: Case) -> Iterator[Finding]:
    if not case.spec.tracking.is_on:
        text = Text("No experiment tracker is attached; tracking is strongly recommended for every experiment.")
        advice = Text("Set use_swanlab to true, or report_to to tensorboard, wandb, mlflow or trackio.")
        yield info("report_to", PAPER, text, advice)
        text = Text("The platform records every metric of the job as events; the console draws the loss curves.")
        yield info("report_to", REFERENCE, text)


def stage(case: Case) -> Iterator[Finding]:
    if case.spec.tuning.stage == "sft":
        yield info("stage", PAPER, Text("95 % of jobs are sft."))


def template(case: Case) -> Iterator[Finding]:
    named, model = case.spec.data.template, case.spec.model.model_name_or_path
    if named is None:
        yield info("template", REFERENCE, Text("The model's own chat template is used: the safe choice."))
        return
    text = Text("The template must match the model's own: a wrong one ruins the model silently.")
    yield info("template", PAPER, text)
    text = Text("One family has several templates (llama2 and llama3, qwen and qwen3): the model's own decides.")
    yield info("template", REFERENCE, text, Text("Leave template out where you are not sure."))
    right = families.by_name(model)
    if right is not None and not families.siblings(named, right):
        text = Text("Template {template!r} is not that of a model of this name.", template=named)
        advice = Text("Leave template out: the model's own decides. By its name it is {right!r}.", right=right)
        yield warning("template", REFERENCE, text, advice)


def rate(value: float) -> str:
    """As people write learning rates: 5e-5."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


CHECKS = (
    stage, learning_rate, schedule, batch, epochs, length, packing, validation, tracking, template,
)  # fmt: skip
