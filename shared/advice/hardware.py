"""Remarks on memory and cards, from the estimate: said where the model's shape is known, and more where cards are."""

from __future__ import annotations

from collections.abc import Iterator

from shared.advice import fit, footprint
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.advice.memory import GIB
from shared.tongues import Text, listed

PAPER, ESTIMATE, REFERENCE = Origin.PAPER, Origin.ESTIMATE, Origin.REFERENCE
#: Bytes of a checkpoint for each weight: of one trained in full (weights and Adam), of an adapter.
FULL_CHECKPOINT_BYTES, ADAPTER_CHECKPOINT_BYTES = 14, 16
#: Disk that checkpoints may take before it is worth a remark, GiB.
MUCH_DISK_GIB = 100
#: Logits of a validation batch that are worth a remark where the card is not known, GiB.
MUCH_LOGITS_GIB = 4
#: Bytes of a logit when validating: itself and the copy of those that count.
EVAL_LOGIT_BYTES = 4


def verdict(case: Case) -> Iterator[Finding]:
    """Whether it fits, and what would make it."""
    made = case.fitted
    if made is None or case.shape is None:
        return
    counted = {name: gib for name, gib in made.memory.gib().items() if name != "total" and gib >= 0.05}
    parts = listed(Text("{part} {gib}", part=Text(name), gib=f"{gib:.1f}") for name, gib in counted.items())
    text = Text(
        "A device needs about {need} GiB of {there} ({cards}): {parts}.",
        need=f"{made.gib:.1f}", there=f"{made.cards.gib:.0f}", cards=made.cards.words, parts=parts,
    )  # fmt: skip
    if made.verdict == fit.FITS:
        yield info("per_device_train_batch_size", ESTIMATE, Text("{text} It fits.", text=text))
        return
    found = case.nearest
    field = next(iter(found.patch)) if found else "per_device_train_batch_size"
    advice = in_words(found)
    if made.verdict == fit.TIGHT:
        told = Text("{text} It is tight: less than {reserve} % is left.", text=text, reserve=round(100 * fit.RESERVE))
        yield warning(field, ESTIMATE, told, advice)
    else:
        yield warning(field, ESTIMATE, Text("{text} It does not fit.", text=text), advice)
    if made.cards.host_memory_gib is not None and made.host_gib > made.cards.host_memory_gib:
        yield _host(case, made)


def in_words(found: fit.Change | None) -> str:
    if found is None:
        return Text("No change that is known here makes it fit: take a smaller model or larger cards.")
    fields = ", ".join(f"{name}: {_shown(value)}" for name, value in found.patch.items() if value is not None)
    return Text("Nearest change that fits ({gib} GiB): {fields}.", gib=f"{found.fitted.gib:.1f}", fields=fields)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _host(case: Case, made: fit.Fitted) -> Finding:
    text = Text(
        "{count} processes of one machine need about {need} GiB of its RAM, of {there}.",
        count=made.cards.on_one_host, need=f"{made.host_gib:.0f}", there=f"{made.cards.host_memory_gib:.0f}",
    )  # fmt: skip
    return warning(
        "deepspeed", ESTIMATE, text, Text("ZeRO-3 loads the weights shared; without it each process reads all.")
    )


def precision(case: Case) -> Iterator[Finding]:
    """bfloat16 needs Ampere."""
    if case.cards is None or case.cards.has_bf16:
        return
    field = "pure_bf16" if case.spec.tuning.pure_bf16 else "bf16"
    if case.spec.train.bf16 or case.spec.tuning.pure_bf16:
        text = Text("{cards} is older than Ampere: bfloat16 is emulated there, slowly.", cards=case.cards.words)
        yield warning(field, REFERENCE, text, Text("Set fp16 to true and bf16 to false."))


def number(case: Case) -> Iterator[Finding]:
    """Whether the job takes the cards that there are."""
    spread = case.spec.distributed
    given, field = spread.num_ranks() if spread.processes else None, spread.counted_by
    if case.cards is None or case.cards.count == given:
        return
    there, each = case.cards.count, max(case.cards.count // spread.num_nodes, 1)
    if given is None and there > 1:
        text = Text("num_processes is left out: a job takes one device, and this counts with {count}.", count=there)
        yield warning(field, ESTIMATE, text, Text("Set {field} to {count}.", field=field, count=each))
    elif given is not None and given > there:
        text = Text("{given} devices are asked for, of {count}.", given=given, count=there)
        yield warning(field, ESTIMATE, text, Text("Set {field} to {count}.", field=field, count=each))
    elif given is not None and there % given:
        text = Text("{count} cards are no multiple of {given}: {left} stay idle.", count=there, given=given,
                    left=there % given)  # fmt: skip
        yield info(field, ESTIMATE, text)


def attention(case: Case) -> Iterator[Finding]:
    """Only eager attention's scores grow with the square of the length."""
    if case.spec.model.flash_attn != "disabled":
        return
    text = Text("Eager attention keeps score matrices that grow with the square of cutoff_len.")
    if case.shape is not None:
        rows, length = case.spec.train.per_device_train_batch_size, case.spec.data.cutoff_len
        one = 2 * rows * case.shape.num_heads * length**2 / GIB
        text = Text("{text} One of them takes {gib} GiB in each layer here.", text=text, gib=f"{one:.2f}")
    yield warning("flash_attn", ESTIMATE, text, Text("Set flash_attn to auto: memory is then linear in the length."))


def longest(case: Case) -> Iterator[Finding]:
    shape, cutoff = case.shape, case.spec.data.cutoff_len
    if shape is not None and 0 < shape.max_length < cutoff and case.spec.architecture.rope_scaling is None:
        text = Text("cutoff_len {cutoff} is above the {most} tokens that the model was made for.", cutoff=cutoff,
                    most=shape.max_length)  # fmt: skip
        yield warning("cutoff_len", REFERENCE, text, Text("Lower it, or stretch the positions with rope_scaling."))


def targets(case: Case) -> Iterator[Finding]:
    """Names of modules that this architecture does not have."""
    shape, lora = case.shape, case.spec.lora
    if case.spec.tuning.finetuning_type != "lora" or "all" in lora.target:
        return
    text = Text("{names} get an adapter; all is safe for most, fewer modules are for finer control.",
                names=", ".join(lora.target))  # fmt: skip
    yield info("lora_target", PAPER, text)
    if shape is not None and shape.is_known:
        known = shape.linear_names()
        lacking = [name for name in lora.target if not any(name.endswith(other) for other in known)]
        if lacking:
            text = Text("{name} is no linear layer of a {family} model.", name=lacking[0], family=shape.family)
            advice = Text("It has {known}; all takes them all.", known=", ".join(known))
            yield warning("lora_target", REFERENCE, text, advice)


def experts(case: Case) -> Iterator[Finding]:
    """Experts are one tensor: adapters and 4-bit loading pass them by."""
    shape = case.shape
    if shape is None or not shape.num_expert:
        return
    share = 100 * shape.num_expert / shape.num_weights
    is_adapted = case.spec.tuning.finetuning_type == "lora" and "all" in case.spec.lora.target
    if is_adapted and shape.adapts_experts:
        text = Text("Every expert gets an adapter of its own: {count} weights are trained.",
                    count=f"{footprint.count_trained(case.spec, shape):,}")  # fmt: skip
        advice = Text("Name the attention's matrices in lora_target for a small adapter.")
        yield warning("lora_target", REFERENCE, text, advice)
    elif is_adapted:
        text = Text("Its experts ({share} % of the weights) get no adapter: they are one tensor, not linear layers.",
                    share=f"{share:.0f}")  # fmt: skip
        yield info("lora_target", REFERENCE, text, Text("Attention and what every token passes are adapted."))
    if case.spec.model.quantization_bit is not None:
        text = Text("Its experts ({share} % of the weights) stay in 16 bits: quantization reaches linear layers only.",
                    share=f"{share:.0f}")  # fmt: skip
        yield warning(
            "quantization_bit", REFERENCE, text, Text("Count with the memory of the plan, not with a quarter.")
        )


def evaluation(case: Case) -> Iterator[Finding]:
    """The validation batch is 8 unless said otherwise, and all its logits are computed."""
    shape, train = case.shape, case.spec.train
    if not case.validates or shape is None:
        return
    rows = train.per_device_eval_batch_size
    logits = rows * case.spec.data.cutoff_len * shape.vocab * EVAL_LOGIT_BYTES / GIB
    made = case.fitted
    free = made.cards.gib - (made.memory.total - made.memory.activations - made.memory.logits) / GIB if made else None
    if rows > train.per_device_train_batch_size and logits > (MUCH_LOGITS_GIB if free is None else free):
        text = Text("Validating {rows} samples at once needs up to {gib} GiB for their logits.", rows=rows,
                    gib=f"{logits:.1f}")  # fmt: skip
        advice = Text("Set per_device_eval_batch_size to {rows}.", rows=train.per_device_train_batch_size)
        yield warning("per_device_eval_batch_size", ESTIMATE, text, advice)


def disk(case: Case) -> Iterator[Finding]:
    """Checkpoints are kept until save_total_limit says otherwise."""
    train = case.spec.train
    count, bytes_each = num_checkpoints(case), checkpoint_bytes(case)
    if train.save_total_limit is not None or not count or not bytes_each:
        return
    if (total := count * bytes_each / GIB) > MUCH_DISK_GIB:
        text = Text("{count} checkpoints of {each} GiB are kept: {total} GiB of disk.", count=count,
                    each=f"{bytes_each / GIB:.1f}", total=f"{total:.0f}")  # fmt: skip
        advice = Text("Set save_total_limit to 3, or save_only_model to true.")
        yield warning("save_total_limit", ESTIMATE, text, advice)


def num_checkpoints(case: Case) -> int | None:
    train = case.spec.train
    if train.save_strategy == "no":
        return 0
    if train.save_strategy == "epoch":
        return int(train.num_train_epochs) or 1
    return None if case.total_steps is None else case.total_steps // max(1, train.save_interval(case.total_steps))


def checkpoint_bytes(case: Case) -> float | None:
    """Of one checkpoint on the disk; None where the model's size is not known."""
    weights = case.shape.num_weights if case.shape else (case.billions or 0) * 1e9
    if not weights:
        return None
    only = case.spec.train.save_only_model
    if case.spec.tuning.finetuning_type == "lora":
        trained = footprint.count_trained(case.spec, case.shape) if case.shape else 0
        return trained * (4 if only else ADAPTER_CHECKPOINT_BYTES) or None
    return weights * (2 if only else FULL_CHECKPOINT_BYTES)


CHECKS = (verdict, precision, number, attention, longest, targets, experts, evaluation, disk)
