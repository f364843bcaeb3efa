"""Remarks on what other trainers let through without a word: fields that do nothing together, or not what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shared import stages
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.footprint import HALVES
from shared.spec import Distributed, Train
from shared.tongues import Text

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: Rows below which a validation loss is mostly chance.
FEW_ROWS = 10
#: Share of the data above which validation takes too much of it.
MUCH_HELD_OUT = 0.3
#: Samples from which on the paper advises no dropout.
MANY_ROWS = 10_000


def warmup(case: Case) -> Iterator[Finding]:
    train = case.spec.train
    if train.lr_scheduler_type == "constant" and (train.warmup_steps or train.warmup_ratio):
        text = Text("The schedule constant knows no warmup: it begins at the full learning rate.")
        yield warning("lr_scheduler_type", REFERENCE, text, Text("Set lr_scheduler_type to constant_with_warmup."))


def moments(case: Case) -> Iterator[Finding]:
    """Validations and checkpoints that would come after the end."""
    train, steps = case.spec.train, case.total_steps
    if steps is None:
        return
    every = train.eval_steps or train.logging_steps
    if train.eval_strategy == "steps" and every > steps:
        text = Text("Validation comes every {every} steps, but there are about {steps}: no curve.", every=every,
                    steps=steps)  # fmt: skip
        yield warning("eval_steps", ESTIMATE, text, Text("Set eval_steps to {few}.", few=max(1, steps // 10)))
    if train.save_strategy == "steps" and train.save_interval(steps) > steps:
        text = Text("No checkpoint comes before the end ({steps} steps): an interrupted job begins again.", steps=steps)
        yield info("save_steps", ESTIMATE, text, Text("Set save_steps to {few}.", few=max(1, steps // 4)))


def amount(case: Case) -> Iterator[Finding]:
    train, data = case.spec.train, case.spec.data
    if train.max_steps > 0 and train.num_train_epochs != Train().num_train_epochs:
        text = Text("max_steps {steps} ends the training, whatever num_train_epochs says.", steps=train.max_steps)
        yield info("num_train_epochs", REFERENCE, text, Text("Leave one of the two out."))
    if data.max_samples is not None:
        text = Text("At most {count} rows of each dataset are used: for trying out.", count=data.max_samples)
        yield info("max_samples", REFERENCE, text, Text("Leave it out for the real training."))


def packed(case: Case) -> Iterator[Finding]:
    data, stage = case.spec.data, case.spec.tuning.stage
    if data.packing and stages.get(stage).rows in ("pair", "labelled"):
        text = Text("Packing has no effect in stage {stage}: its samples are compared one by one.", stage=stage)
        yield warning("packing", REFERENCE, text, Text("Leave it out."))
    elif data.packing and case.spec.train.group_by_length:
        text = Text("Packed sequences are all of one length: group_by_length changes nothing.")
        yield info("group_by_length", REFERENCE, text, Text("Leave it out."))


def held_out(case: Case) -> Iterator[Finding]:
    size, rows = case.spec.data.val_size, case.num_rows
    if size <= 0 or rows is None or case.train_rows is None:
        return
    count = rows - case.train_rows
    if count < FEW_ROWS:
        text = Text("{count} rows are held out for validation: their loss is mostly chance.", count=count)
        yield warning("val_size", ESTIMATE, text, Text("Hold out {few} or more.", few=min(100, max(rows // 5, 1))))
    elif count > MUCH_HELD_OUT * rows:
        text = Text("{share} % of the rows are held out for validation.", share=round(100 * count / rows))
        yield warning("val_size", ESTIMATE, text, Text("0.05 to 0.1 is enough."))


def formats(case: Case) -> Iterator[Finding]:
    train, model, tuning = case.spec.train, case.spec.model, case.spec.tuning
    stored = case.shape.dtype if case.shape else ""
    if train.fp16 and stored == "bfloat16" and tuning.finetuning_type != "lora":
        text = Text("The model was trained in bfloat16: in float16 its weights and activations may overflow.")
        yield warning("fp16", REFERENCE, text, Text("Set bf16 to true where the cards can, else train an adapter."))
    is_half = train.bf16 or train.fp16 or tuning.pure_bf16 or (tuning.finetuning_type == "lora" and stored in HALVES)
    if model.flash_attn in ("fa2", "fa3") and not is_half:
        text = Text("FlashAttention computes in 16 bits only, and nothing here says bf16 or fp16.")
        yield warning("flash_attn", REFERENCE, text, Text("Set bf16 to true, or flash_attn to auto."))
    if model.quantization_bit is not None and not model.upcast_layernorm:
        text = Text("Norms of a quantized model are more exact in float32.")
        yield info("upcast_layernorm", REFERENCE, text, Text("Set upcast_layernorm to true when losses are unsteady."))
    if model.quantization_bit == 8:
        text = Text("8 bits train more slowly than 4, and take twice the memory.")
        yield info("quantization_bit", REFERENCE, text, Text("4 with nf4 is what QLoRA's authors advise."))


def dropout(case: Case) -> Iterator[Finding]:
    lora, rows = case.spec.lora, case.train_rows
    if case.spec.tuning.finetuning_type != "lora" or lora.dropout == 0:
        return
    if lora.dropout > 0.3:
        text = Text("A dropout of {dropout} keeps the adapter from learning.", dropout=f"{lora.dropout:g}")
        yield warning("lora_dropout", PAPER, text, Text("0.05 to 0.1."))
    elif rows is not None and rows >= MANY_ROWS:
        text = Text("With {rows} rows dropout is not needed.", rows=rows)
        yield info("lora_dropout", PAPER, text, Text("Set lora_dropout to 0 unless it over-fits."))


def scale(case: Case) -> Iterator[Finding]:
    lora = case.spec.lora
    if case.spec.tuning.finetuning_type == "lora" and lora.use_rslora:
        alpha = lora.alpha or 2 * lora.rank
        factor = alpha / math.sqrt(lora.rank)
        text = Text("With use_rslora the adapter counts {factor} times, not {plain}: alpha / sqrt(rank).",
                    factor=f"{factor:.3g}", plain=f"{alpha / lora.rank:g}")  # fmt: skip
        yield info("use_rslora", REFERENCE, text, Text("Lower lora_alpha or learning_rate when losses jump."))


def clipping(case: Case) -> Iterator[Finding]:
    if case.spec.train.max_grad_norm == 0:
        text = Text("Gradients are never cut: one bad batch can undo the training.")
        yield warning("max_grad_norm", REFERENCE, text, Text("Set max_grad_norm to 1."))


def resuming(case: Case) -> Iterator[Finding]:
    if case.spec.train.save_only_model:
        text = Text("Checkpoints without the optimizer cannot be gone on from exactly.")
        yield info("save_only_model", REFERENCE, text, Text("Leave it out where jobs are paused or machines fail."))


def engine(case: Case) -> Iterator[Finding]:
    """Numbers of a DeepSpeed configuration that the spec says otherwise."""
    given = case.spec.distributed.deepspeed or {}
    train = case.spec.train
    own = {
        "train_micro_batch_size_per_gpu": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "train_batch_size": case.effective_batch,
    }
    for name, value in own.items():
        if type(given.get(name)) is int and given[name] != value:
            text = Text("The DeepSpeed configuration says {name} {theirs}, the spec comes to {ours}: the spec holds.",
                        name=name, theirs=given[name], ours=value)  # fmt: skip
            yield warning("deepspeed", REFERENCE, text, Text('Write "auto" there.'))


def cut(case: Case) -> Iterator[Finding]:
    """Where percentiles are known and shares are not."""
    cutoff, lengths = case.spec.data.cutoff_len, case.lengths
    if "share_cut" in lengths:
        return
    for mark, share in (("p50", 50), ("p95", 5), ("p99", 1)):
        if (length := lengths.get(mark, 0)) > cutoff:
            text = Text(
                "More than {share} % of the samples are longer than cutoff_len {cutoff} and cut ({mark}: {length}).",
                share=share, cutoff=cutoff, mark=mark.upper(), length=int(length),
            )  # fmt: skip
            advice = Text("Choose it from the P95 to P99 of the data's lengths.")
            yield warning("cutoff_len", PAPER, text, advice)
            return


def ray(case: Case) -> Iterator[Finding]:
    """LF turns Ray on by its environment, so that its files carry fields of Ray alone."""
    given, advice = case.spec.distributed, Text("Set use_ray to true, or num_processes to the devices it shall take.")
    if given.use_ray:
        return
    if given.ray_num_workers != Distributed().ray_num_workers:
        text = Text("ray_num_workers says {count}, but use_ray is not given: the job does not start through Ray.",
                    count=given.ray_num_workers)  # fmt: skip
        yield warning("use_ray", REFERENCE, text, advice)
    elif given.ray_init_kwargs:
        text = Text("ray_init_kwargs is given, but use_ray is not: the job does not start through Ray.")
        yield warning("use_ray", REFERENCE, text, advice)


CHECKS = (
    warmup, moments, amount, packed, held_out, formats, dropout, scale, clipping, resuming, engine, ray, cut,
)  # fmt: skip
