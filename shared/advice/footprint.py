"""From a spec and a model's shape to what the estimate of memory reads: formats, trained weights, batch, sharding.

Follows what the trainer's child does (trainer_worker/child/precision.py, methods/, loss.py): a change there is a
change here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared import schema, stages
from shared.advice.families import Matrix
from shared.advice.memory import ENGINE, FLOAT32, MIXED, PURE, Trained, Training
from shared.advice.shapes import Shape
from shared.spec import Freeze, TrainSpec

#: Formats of half the size of float32, as config.json names them.
HALVES = frozenset({"bfloat16", "float16"})
#: Bytes of a weight in 4 bits with and without quantized scales (arXiv 2305.14314), and in 8.
NF4_DOUBLE, NF4, INT8 = 0.516, 0.5625, 1.03
#: Bytes of a weight of a further model by the bits it is loaded in.
QUANTIZED = {4: NF4_DOUBLE, 8: INT8}
#: Bytes that our loss keeps of a logit, in units of the activations' format: itself, its gradient, a slice.
LOGIT_COPIES = 3
#: States of an optimizer for each weight, by a word of its name; Adam's are two.
MOMENTS = {"ademamix": 3.0, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0, "sgd": 0.0, "adafactor": 0.0125}
#: Optimizers whose step holds another copy of what it works on.
COPYING = frozenset({"adamw_torch", "adagrad", "rmsprop", "adafactor"})
#: Losses of preference learning that need no second model.
NO_REFERENCE = frozenset({"orpo", "simpo"})
#: Modules of `additional_target` by what they are.
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
HEADS = ("lm_head", "embed_out", "output_layer")


def training(
    spec: TrainSpec, shape: Shape, *, num_devices: int, has_bf16: bool = True, length_max: int | None = None
) -> Training:
    """What each process of the spec's training holds; with checkpointing unless the spec switches it off."""
    trained, frozen, element = formats(spec, shape, has_bf16)
    num_trained = count_trained(spec, shape)
    method, lora = spec.tuning.finetuning_type, spec.lora
    made = Training(
        shape=shape,
        num_trained=num_trained,
        trained=with_optimizer(trained, spec.train.optim),
        num_frozen=shape.num_weights - (0 if method == "lora" or spec.freeze.use_llama_pro else num_trained),
        frozen_bytes=_quantized_bytes(spec) or frozen,
        outside_bytes=frozen,
        element=element,
        rows=spec.train.per_device_train_batch_size * row_factor(spec),
        length=_length(spec, length_max),
        logit_bytes=0 if spec.tuning.stage == "rm" else LOGIT_COPIES * element,
        is_eager=spec.model.flash_attn == "disabled" or (shape.caps_scores and "fa" not in spec.model.flash_attn),
        repeats_keys=spec.model.flash_attn == "auto",
        checkpointing=not spec.model.disable_gradient_checkpointing,
        is_fused=spec.model.enable_liger_kernel,
        has_dropout=method == "lora" and lora.dropout > 0,
        rank=lora.rank if method == "lora" and "all" in lora.target else 0,
        accumulates=spec.train.gradient_accumulation_steps > 1,
        num_devices=num_devices,
        zero=zero_stage(spec),
        offload=offload(spec),
    )
    return replace(made, other_bytes=other_bytes(spec, made))


def _length(spec: TrainSpec, length_max: int | None) -> int:
    """Tokens of the longest sequence of a batch."""
    cutoff = spec.data.cutoff_len
    given = cutoff if spec.data.packing or length_max is None else min(cutoff, max(length_max, 1))
    drawn = schema.to_wire(spec).get("max_new_tokens") if spec.tuning.stage == "ppo" else None
    return given + int(drawn or 0)


def formats(spec: TrainSpec, shape: Shape, has_bf16: bool) -> tuple[Trained, float, int]:
    """Bytes of what is trained, of a frozen weight, of an activation."""
    train, is_lora = spec.train, spec.tuning.finetuning_type == "lora"
    is_half = spec.tuning.pure_bf16 or train.bf16 or train.fp16
    is_half = is_half or (is_lora and has_bf16 and shape.dtype in HALVES)
    if not is_half:
        return FLOAT32, 4, 4
    if zero_stage(spec) is not None:
        return ENGINE, 2, 2
    return (PURE if spec.tuning.pure_bf16 else MIXED), 2, 2


def with_optimizer(trained: Trained, name: str) -> Trained:
    """Bytes of the optimizer's state, from Adam's two moments in the format of the weights that it steps."""
    master = 4.0 if trained == ENGINE else 0.0
    each = 1.0 if "8bit" in name else (trained.optimizer - master) / 2
    count = next((count for word, count in MOMENTS.items() if word in name), 2.0)
    # Of PyTorch's own optimizers those that step weight by weight hold a copy; fused and 8-bit ones do not.
    copies = trained.step if name in COPYING else trained.step - (4 if master else trained.step)
    return replace(trained, optimizer=master + count * each, step=copies)


def count_trained(spec: TrainSpec, shape: Shape) -> int:
    method, lora = spec.tuning.finetuning_type, spec.lora
    if method == "full":
        return shape.num_weights
    if method == "freeze":
        return _frozen_but(spec.freeze, shape)
    adapted = shape.adapted(lora.target, lora.rank)
    if lora.use_dora:
        adapted += sum(matrix.count * matrix.outputs for matrix in shape.targeted(lora.target))
    return adapted + sum(_whole(shape, name) for name in lora.additional_target)


def _frozen_but(freeze: Freeze, shape: Shape) -> int:
    """Weights of the layers that are trained (of LLaMA Pro: added), or of modules inside them, and of those beside."""
    layers, names = min(abs(freeze.trainable_layers), shape.num_layers), set(freeze.trainable_modules)
    inside = sum(m.num_weights for m in shape.matrices if names & {"all", m.name, "mlp" if _is_mlp(m) else "self_attn"})
    if "all" in names:
        inside += shape.vectors - shape.hidden  # but the norm after the last layer
    return inside * layers // shape.num_layers + sum(_whole(shape, name) for name in freeze.extra_modules)


def _is_mlp(matrix: Matrix) -> bool:
    return matrix.is_expert or any(word in matrix.name for word in ("gate", "up_proj", "down_proj", "fc", "4h"))


def _whole(shape: Shape, name: str) -> int:
    last = name.rpartition(".")[2]
    if last in EMBEDDINGS:
        return shape.embedding
    if last in HEADS:
        return shape.head or shape.embedding
    return sum(matrix.num_weights for matrix in shape.matrices if matrix.name == last)


def _quantized_bytes(spec: TrainSpec) -> float | None:
    bits = spec.model.quantization_bit
    if bits is None:
        return None
    return INT8 if bits == 8 else NF4_DOUBLE if spec.model.double_quantization else NF4


def row_factor(spec: TrainSpec) -> int:
    """Sequences that the model reads for one sample: a pair has two, a labelled answer another to compare with."""
    return 2 if stages.get(spec.tuning.stage).rows in ("pair", "labelled") else 1


def other_bytes(spec: TrainSpec, made: Training) -> float:
    """Further models that are held: the reference of preference learning, reward and value models of ppo."""
    stage, is_lora = spec.tuning.stage, spec.tuning.finetuning_type == "lora"
    if stage not in ("dpo", "kto", "ppo"):
        return 0.0
    given, count = schema.to_wire(spec), made.shape.num_weights
    held = 0.0
    compares = stage != "dpo" or given.get("pref_loss") not in NO_REFERENCE
    if compares and (given.get("ref_model") or not is_lora):
        # Not an adapter that is switched off: in the format of what is trained, unless it is quantized.
        held += count * QUANTIZED.get(given.get("ref_model_quantization_bit") or 0, made.trained.weight)
    if stage == "ppo" and given.get("reward_model_type") != "lora":
        stored = 2.0 if made.shape.dtype in HALVES else 4.0
        held += count * QUANTIZED.get(given.get("reward_model_quantization_bit") or 0, stored)
    return held


def zero_stage(spec: TrainSpec) -> int | None:
    """DeepSpeed's stage; None without DeepSpeed."""
    given = spec.distributed
    if given.zero_stage is not None:
        return given.zero_stage
    return None if given.deepspeed is None else int(_zero(given.deepspeed).get("stage", 0))


def offload(spec: TrainSpec) -> str:
    """What DeepSpeed keeps on the host, one of memory.OFFLOADS."""
    if spec.distributed.deepspeed is None:
        return spec.distributed.zero_offload
    zero = _zero(spec.distributed.deepspeed)
    has = {name: _device(zero.get(name)) == "cpu" for name in ("offload_optimizer", "offload_param")}
    if has["offload_param"]:
        return "optimizer+params"
    return "optimizer" if has["offload_optimizer"] else "none"


def _zero(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("zero_optimization")
    return found if isinstance(found, dict) else {}


def _device(value: Any) -> str:
    return str(value.get("device", "none")) if isinstance(value, dict) else "none"
