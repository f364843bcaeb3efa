"""Which fused kernels of Liger a training takes, with `enable_liger_kernel` on a GPU.

Rotary positions, norms and gated MLPs, where the package has them for the architecture. Not its cross-entropy, fused
with the output matrix or not: logits exist for the learned positions alone here, and our loss (loss.py) keeps one
half-precision gradient of them, for all stages; the fused one would replace the model's forward pass for the plain loss
of one stage. The package needs Triton, hence a GPU, and is loaded only where it is used.
"""

from __future__ import annotations

import inspect
from typing import Any

from shared.spec import TrainSpec

#: What transformers hands to the package; names that an architecture's function does not know are left out there.
CONFIG = {"fused_linear_cross_entropy": False, "cross_entropy": False}


def is_wanted(spec: TrainSpec, device: Any) -> bool:
    return spec.model.enable_liger_kernel and bool(device.type == "cuda")


def parts(model_type: str) -> list[str]:
    """The kernels that there are for an architecture; none where the package does not know it."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KNOWN

    return switched_on(KNOWN[model_type]) if model_type in KNOWN else []


def switched_on(apply: Any) -> list[str]:
    """What a function of the package does when it is told CONFIG."""
    parameters = inspect.signature(apply).parameters.values()
    return [one.name for one in parameters if CONFIG.get(one.name, one.default) is True]
