"""8-bit integer weights and activations, in compressed-tensors form: half the memory, integer arithmetic."""

from __future__ import annotations

from shared.declarations import Format, Served

FORMAT = Format(
    name="w8a8",
    doc="8-bit integer weights and activations, SmoothQuant and GPTQ with calibration texts, compressed-tensors files.",
    bits=(8,),
    default_for=(8,),
    calibrated=True,
    # vLLM's integer kernels end with Hopper: newer cards take fp8.
    served=Served(cuda=(7.5, 9.0), cpu=True),
)
