"""The base model of a training, loaded in the format and with the attention that the run needs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from shared import stages
from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from trainer_worker.child import attention
from trainer_worker.child.context import Context
from trainer_worker.child.precision import HALVES, Precision

#: LF's names of attention kernels -> transformers'.
KERNELS = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2", "fa3": "flash_attention_3"}
#: Kernels of packages that a trainer may be without.
OPTIONAL = {"fa2": is_flash_attn_2_available, "fa3": is_flash_attn_3_available}
#: Widest heads that both of them take.
MAX_WIDTH = 256

#: What transformers calls the head of its decoders' classification models.
HEAD = "score"
#: GPT-2 and its kin call a transposed linear layer Conv1D.
LINEAR = (torch.nn.Linear, Conv1D)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How samples of a batch lie in the model's input."""

    kernel: str
    #: One row without padding, as against one row per sample.
    is_flat: bool


def load_config(context: Context) -> PretrainedConfig:
    model = context.spec.model
    return AutoConfig.from_pretrained(
        context.run["model_path"], revision=model.model_revision, trust_remote_code=model.trust_remote_code
    )


def stored_dtype(config: PretrainedConfig) -> torch.dtype:
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def layout(spec: TrainSpec, config: PretrainedConfig, *, padded: bool = False, flash: str | None = None) -> Layout:
    """The fastest that is right for this architecture; `padded` where samples must lie in rows of their own, `flash` is
    the kernel of `flash_kernel`. Raises InvalidSpec where a score is wanted and the architecture has none."""
    scores = gives_scores(spec)
    mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if scores else MODEL_FOR_CAUSAL_LM_MAPPING
    model_class = mapping.get(type(config), None)
    if scores and model_class is None:
        text = f"is of architecture {config.model_type}, of which transformers has no model with a score head"
        raise InvalidSpec(text, field="model_name_or_path")
    # Older classification models do not pass on what our attention is told.
    padded = padded or (scores and not takes_more(model_class.forward))
    suits = not padded and model_class is not None and attention.suits(model_class, config)
    named = None if lacks_kernel(spec) else KERNELS.get(spec.model.flash_attn)
    if flash is not None and spec.model.flash_attn == "auto" and takes_flash(model_class, config):
        named = flash
    kernel = named or (attention.NAME if suits else _fallback(model_class, config))
    return Layout(kernel=kernel, is_flat=suits)


def flash_kernel(device: torch.device, compute: torch.dtype) -> str | None:
    """The best kernel of a package that is here and works on this device in this format; with it samples that lie one
    after another in a row are told apart by their positions, at no cost for padding."""
    if device.type != "cuda":
        return None
    there = [name for name, is_there in OPTIONAL.items() if is_there()]
    return best_flash(torch.cuda.get_device_capability(device), compute, there)


def best_flash(capability: tuple[int, int], compute: torch.dtype, there: Sequence[str]) -> str | None:
    """FlashAttention 3 is for Hopper alone, 2 for Ampere and later; both compute in 16 bits."""
    if compute not in HALVES:
        return None
    if "fa3" in there and capability[0] == 9:
        return KERNELS["fa3"]
    return KERNELS["fa2"] if "fa2" in there and capability[0] >= 8 else None


def takes_flash(model_class: Any, config: PretrainedConfig) -> bool:
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return bool(getattr(model_class, "_supports_flash_attn", False)) and width <= MAX_WIDTH


def lacks_kernel(spec: TrainSpec) -> bool:
    """Whether the attention that is asked for comes with a package that is not here; LF takes another then, too."""
    is_there = OPTIONAL.get(spec.model.flash_attn)
    return is_there is not None and not is_there()


def gives_scores(spec: TrainSpec) -> bool:
    return stages.get(spec.tuning.stage).predicts == "score"


def takes_more(function: Any) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values())


def load(context: Context, config: PretrainedConfig, dtype: torch.dtype, kernel: str) -> PreTrainedModel:
    if kernel == attention.NAME:
        attention.register()
    given = context.spec.model
    options: dict[str, Any] = (
        {"quantization_config": quantization(context.spec, given.quantization_bit)} if given.quantization_bit else {}
    )
    if given.quantization_bit and context.device.type == "cuda":
        options["device_map"] = {"": context.device.index or 0}
    auto_class: Any = AutoModelForCausalLM
    if gives_scores(context.spec):
        auto_class, config.num_labels = AutoModelForSequenceClassification, 1
    common = {"dtype": dtype, "attn_implementation": kernel, "trust_remote_code": given.trust_remote_code}
    if context.spec.architecture.train_from_scratch:
        model: PreTrainedModel = auto_class.from_config(config, **common)
    else:
        model = auto_class.from_pretrained(
            context.run["model_path"], config=config, revision=given.model_revision, **common, **options
        )
    model.config.use_cache = False
    return model


def quantized(context: Context, bits: int | None) -> dict[str, Any]:
    """What loads a model in so many bits; nothing where it is loaded as it is."""
    if bits is None:
        return {}
    place = {"device_map": {"": context.device.index or 0}} if context.device.type == "cuda" else {}
    return {"quantization_config": quantization(context.spec, bits), **place}


def quantization(spec: TrainSpec, bits: int) -> BitsAndBytesConfig:
    given = spec.model
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=given.quantization_type,
        bnb_4bit_use_double_quant=given.double_quantization,
        bnb_4bit_compute_dtype=torch.float16 if spec.train.fp16 else torch.bfloat16,
        bnb_4bit_quant_storage=torch.uint8,
    )


def set_trained(model: torch.nn.Module, precision: Precision) -> None:
    """Give the weights that are trained their format, once it is known which they are."""
    _cast(model, precision.trained, trained=True)


def set_frozen(model: torch.nn.Module, precision: Precision) -> None:
    """Give the weights that stay as they are theirs."""
    _cast(model, precision.frozen, trained=False)


def _cast(model: torch.nn.Module, dtype: torch.dtype, *, trained: bool) -> None:
    for weight in model.parameters():
        if weight.requires_grad is trained and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)


def upcast_norms(model: torch.nn.Module) -> None:
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and "norm" in name:
            weight.data = weight.data.float()


def linear_names(model: Any) -> list[str]:
    """Every linear layer but the output, by the last part of its name: peft's own `all-linear` lists each layer's path,
    which a server with a layer less or more in its names would not find."""
    head = model.get_output_embeddings()
    linear = (name for name, module in model.named_modules() if isinstance(module, LINEAR) and module is not head)
    return sorted({name.rpartition(".")[2] for name in linear} - {HEAD})


def check_names(model: torch.nn.Module, names: list[str], field: str) -> None:
    """Raises InvalidSpec when a name is no module of the model: peft would pass over it in silence."""
    known = {part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2])}
    if unknown := [name for name in names if name not in known and not any(n.endswith(f".{name}") for n in known)]:
        listed = ", ".join(linear_names(model))
        raise InvalidSpec(f"names {unknown[0]!r}: the linear layers of this model are {listed}", field=field)


def _fallback(model_class: Any, config: PretrainedConfig) -> str:
    has_capping = getattr(config, "attn_logit_softcapping", None) is not None
    return "sdpa" if model_class is not None and model_class._supports_sdpa and not has_capping else "eager"
