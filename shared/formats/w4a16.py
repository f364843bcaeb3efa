"""4-bit weights, 16-bit activations, in compressed-tensors form (made by llmcompressor): vLLM loads it as it is."""

from __future__ import annotations

from shared.declarations import ANY_NEWER, Format, Served

FORMAT = Format(
    name="w4a16",
    doc="4-bit weights chosen by GPTQ with calibration texts, compressed-tensors files.",
    bits=(4,),
    default_for=(4,),
    calibrated=True,
    served=Served(cuda=(7.5, ANY_NEWER), cpu=True),
)
