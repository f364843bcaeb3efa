"""The model that a training by preference is held near to, frozen as it was before the first step.

A new adapter needs no second model: without it, the base is the reference. An adapter that is trained on is kept a
second time under the name REFERENCE, as it came. Any other method, and `ref_model`, takes a model of its own, in the
format that the trained one has: rounded otherwise, the two would differ before anything is learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from shared.errors import InvalidSpec
from trainer_worker import deepspeed
from trainer_worker.child import model as models
from trainer_worker.child.context import Context
from trainer_worker.child.setup import Made
from trainer_worker.child.trainer import REFERENCE


@dataclass(frozen=True, kw_only=True)
class Reference:
    model: torch.nn.Module
    #: Puts the model into the state in which it is the reference.
    state: Callable[[], AbstractContextManager[Any]]

    @contextmanager
    def reading(self) -> Iterator[torch.nn.Module]:
        with torch.no_grad(), self.state():
            yield self.model


def load(context: Context, made: Made) -> Reference:
    """Raises InvalidSpec when the named reference reads other tokens."""
    run, trained = context.run, made.model
    if run.get("ref_model_path"):
        return own(context, made, run["ref_model_path"], run.get("ref_adapter_path"))
    if not isinstance(trained, PeftModel):
        return own(context, made, run["model_path"], None)
    if run.get("adapter_path") is None or context.spec.lora.create_new_adapter:
        return Reference(model=trained, state=trained.disable_adapter)
    trained.load_adapter(run["adapter_path"], REFERENCE, autocast_adapter_dtype=made.precision.trained == torch.float32)
    return Reference(model=trained, state=lambda: _second_adapter(trained))


@contextmanager
def _second_adapter(trained: PeftModel) -> Iterator[None]:
    first = trained.active_adapter
    trained.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        trained.set_adapter(first)


def own(context: Context, made: Made, path: str, adapter: str | None) -> Reference:
    spec, bits = context.spec, context.spec.preference.ref_model_quantization_bit
    text = "Loading the reference model beside the trained one"
    context.emit("message", text, quantization_bit=bits)
    is_base = path == context.run["model_path"]
    reference: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=made.precision.frozen if bits else made.precision.trained,
        attn_implementation=made.kernels["attention"],
        # The administrator's list was asked for the base alone.
        trust_remote_code=spec.model.trust_remote_code and is_base,
        # As the trained one was changed while it was loaded: stretched positions, for example.
        **({"revision": spec.model.model_revision, "config": copy.deepcopy(made.model.config)} if is_base else {}),
        **models.quantized(context, bits),
    )
    check_vocabulary(made.model, reference)
    if adapter is not None:
        reference = PeftModel.from_pretrained(reference, adapter)
    reference.requires_grad_(False).eval()
    return Reference(model=placed(context, reference, is_quantized=bits is not None), state=nullcontext)


def check_vocabulary(trained: Any, reference: Any) -> None:
    sizes = [one.config.get_text_config().vocab_size for one in (trained, reference)]
    if sizes[0] != sizes[1]:
        text = f"has {sizes[1]} tokens where the trained model has {sizes[0]}: take a model of the same family"
        raise InvalidSpec(text, field="ref_model")


def placed(context: Context, reference: torch.nn.Module, *, is_quantized: bool) -> torch.nn.Module:
    """On the device; under ZeRO-3 behind an engine of its own that gathers its weights."""
    if is_quantized:
        return reference
    if deepspeed.stage(context.spec) < 3:
        return reference.to(context.device)
    import deepspeed as engines  # takes seconds, and other trainings do without

    config = deepspeed.reading(context.spec, num_processes=context.num_processes, device=context.device.type)
    config["bf16"]["enabled"] = next(reference.parameters()).dtype == torch.bfloat16
    engine: torch.nn.Module = engines.initialize(model=reference, config=config)[0]
    engine.eval()  # an engine's returns nothing
    return engine
