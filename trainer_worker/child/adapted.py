"""A linear layer with its adapter on a CPU, computed in one go: what peft adds in passes of its own over all outputs
and inputs, the matrix products add to what is there already.

Of a step of SmolLM2-135M these passes (scale, add, and backward the same again) were a tenth. The mathematics is
LoRA's, y = x W' + s (x A') B' (arXiv 2106.09685, equation 3); every case but the plain one is left to peft.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import nn


def enter(config: LoraConfig) -> None:
    """Let peft make its layers of this class."""
    config._register_custom_module({nn.Linear: AdaptedLinear})


class AdaptedLinear(lora.Linear):  # type: ignore[misc]  # peft knows its layers by their class
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = self._plain_adapter(x)
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        base, down, up = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        result: torch.Tensor = _Adapted.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return result

    def _plain_adapter(self, x: torch.Tensor) -> str | None:
        """The only adapter that works, where it is one matrix after the other and nothing else."""
        if x.device.type != "cpu" or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or self.lora_B[name].bias is not None:
            return None
        is_frozen = not any(weight.requires_grad for weight in self.base_layer.parameters())
        is_plain = type(self.base_layer) is nn.Linear and isinstance(self.lora_dropout[name], nn.Identity)
        return name if is_frozen and is_plain else None


# t: tokens, i: inputs, o: outputs, r: rank
class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,  # ... i
        weight: torch.Tensor,  # o i
        bias: torch.Tensor | None,  # o
        down: torch.Tensor,  # r i
        up: torch.Tensor,  # o r
        scale: float,
    ) -> torch.Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        with torch.autocast("cpu", enabled=False):
            rows, weight = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)  # t i
            narrow = rows @ down.to(dtype).T  # t r
            result = nn.functional.linear(rows, weight, None if bias is None else bias.to(dtype))  # t o
            result.addmm_(narrow, up.to(dtype).T, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, narrow)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, down, up, narrow = ctx.saved_tensors
        gradient = outer[0].reshape(len(rows), -1)  # t o
        of_narrow = (gradient @ up.to(gradient.dtype)).mul_(ctx.scale)  # t r
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = (gradient @ weight).addmm_(of_narrow, down.to(gradient.dtype)).view(ctx.shape).to(ctx.dtype)
        of_down = (of_narrow.T @ rows).to(down.dtype)
        of_up = (gradient.T @ narrow).to(up.dtype).mul_(ctx.scale)
        return of_input, None, None, of_down, of_up, None
