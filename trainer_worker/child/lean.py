"""What makes a child's start short: packages that the libraries load on sight, although this process calls nothing of
them, are kept out of it, and nobody looks for garbage among what is being loaded.

transformers, accelerate and peft look what is installed and load it: sklearn for one function of assisted generation,
bitsandbytes for layers of quantized models, DeepSpeed for a comparison of classes. Together that was half of a
child's start (6 of 12 s). A package whose place in `sys.modules` holds None is, as Python defines it, one that cannot
be imported and is not found. For the entries of processes only: it cannot be taken back.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_worker import deepspeed

#: A tokenizer is made without them. It is the same one: transformers asks torch for nothing then.
BESIDE_TOKENS = ("torch", "torchvision", "sklearn", "scipy", "bitsandbytes", "deepspeed", "accelerate", "peft")
#: Optimizers that are bitsandbytes' own have one of these in their names.
OF_BITSANDBYTES = ("8bit", "4bit", "paged", "bnb")


def hide(names: Iterable[str]) -> None:
    modules: dict[str, Any] = sys.modules  # type: ignore[assignment]
    for name in names:
        modules.setdefault(name, None)


@contextmanager
def loading() -> Iterator[None]:
    """For imports: modules are no garbage, to look for some among them took a fifth of a child's start (1.0 of 5.2 s).
    What is there afterwards stays and is not looked through again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def beside_training(spec: Any) -> Iterator[str]:
    """What a rank of this training does without."""
    yield from ("sklearn", "datasets")
    if not spec.model.trust_remote_code and not quantizes(spec):
        yield "scipy"  # for the assignment problem of models that find objects
    if not deepspeed.is_wanted(spec):
        yield "deepspeed"
    optimizer = spec.train.optim
    if not quantizes(spec) and not any(part in optimizer for part in OF_BITSANDBYTES):
        yield "bitsandbytes"


def beside_evaluation(run: Mapping[str, Any]) -> Iterator[str]:
    """What an evaluation does without; lm-evaluation-harness has metrics that need anything."""
    if run["spec"]["tasks"]:
        return
    yield from ("sklearn", "datasets", "deepspeed")
    path = Path(run["model_path"]) / "config.json"
    quantized = not path.is_file() or "quantization_config" in json.loads(path.read_text())
    if run["spec"]["quantization_bit"] is None and not quantized:
        yield "bitsandbytes"


def beside_preparation(spec: Any) -> Iterator[str]:
    """What tokenizing does without; a tokenizer with code of its own may need anything."""
    return iter(() if spec.model.trust_remote_code else BESIDE_TOKENS)


def quantizes(spec: Any) -> bool:
    """Whether the trained model, or one that is read beside it, is loaded in few bits."""
    plugged = getattr(spec, "plugged", {}).get("ppo")
    bits = (
        spec.model.quantization_bit,
        spec.preference.ref_model_quantization_bit,
        getattr(plugged, "reward_model_quantization_bit", None),
    )
    return any(bit is not None for bit in bits)
