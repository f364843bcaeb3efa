"""The model of an evaluation: its base, the adapters on it, in the number format and with the attention that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.quantization_config import QuantizationMethod

from shared.errors import InvalidSpec
from shared.spec.evaluate import EvaluateSpec
from trainer_worker.child import model as models
from trainer_worker.child import tokenizer
from trainer_worker.child.batch import Collator, Flat, Padded
from trainer_worker.child.context import Context
from trainer_worker.child.objective import Autocast
from trainer_worker.child.precision import FULL, Precision, decide

#: How transformers ends the name of a model with a score head, and peft the task of an adapter with one.
ARCHITECTURE, TASK = "ForSequenceClassification", "SEQ_CLS"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    model: Any
    #: Whether peft's model is around it.
    has_adapter: bool
    tokenizer: PreTrainedTokenizerBase
    collator: Collator
    precision: Precision
    autocast: Autocast
    device: torch.device


def load(context: Context, spec: EvaluateSpec) -> Loaded:
    """Raises InvalidSpec where stage `rm` is asked for and no score head is there, for float16 on a CPU."""
    run = context.run
    writes = spec.generates() or bool(spec.benchmarks.tasks)
    config = models.load_config(context)
    if spec.model.infer_dtype == "float16" and context.device.type != "cuda":
        raise InvalidSpec("is float16, which needs a GPU: use bfloat16 on this machine", field="infer_dtype")
    wanted = decide(context.spec, models.stored_dtype(config), context.device)
    precision = FULL if spec.model.infer_dtype == "float32" else wanted
    # Answers are written in rows of their own.
    layout = models.layout(context.spec, config, padded=writes)
    if models.gives_scores(context.spec) and not run["adapter_paths"]:
        check_head(list(config.architectures or ()))
    model: Any = models.load(context, config, precision.frozen, layout.kernel)
    model = with_adapters(model, run["adapter_paths"])
    if models.gives_scores(context.spec) and run["adapter_paths"]:
        check_head([ARCHITECTURE] if model.peft_config["default"].task_type == TASK else [])
    # bitsandbytes has put its weights where they are computed, and refuses to move them.
    if getattr(model, "quantization_method", None) != QuantizationMethod.BITS_AND_BYTES:
        model.to(context.device)
    model.eval().requires_grad_(False)
    model.config.use_cache = True
    loaded = tokenizer.load(run["model_path"], context.spec)
    segments = layout.kernel == models.attention.NAME
    return Loaded(
        model=model,
        has_adapter=bool(run["adapter_paths"]),
        tokenizer=loaded,
        collator=Flat(segments=segments) if layout.is_flat else Padded(pad_id=loaded.pad_token_id or 0),
        precision=precision,
        autocast=partial(precision.context, context.device),
        device=context.device,
    )


def with_adapters(model: Any, paths: Sequence[str]) -> Any:
    """All but the last become part of the base."""
    if not paths:
        return model
    from peft import PeftModel  # takes seconds, and other models do without

    for path in paths[:-1]:
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    return PeftModel.from_pretrained(model, paths[-1], autocast_adapter_dtype=False)


def check_head(architectures: list[str]) -> None:
    """transformers would make up a head where there is none."""
    if not any(name.endswith(ARCHITECTURE) for name in architectures):
        text = "is no reward model: it has no score head; train one with stage rm, or set stage to dpo"
        raise InvalidSpec(text, field="model_name_or_path")


def moved(value: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return {name: moved(item, device) for name, item in value.items()} if isinstance(value, dict) else value
