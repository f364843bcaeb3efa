"""4-bit (NF4) or 8-bit (LLM.int8) weights of bitsandbytes: what transformers and peft load for training and serving."""

from __future__ import annotations

from shared.declarations import ANY_NEWER, Format, Served

FORMAT = Format(
    name="bitsandbytes",
    doc="4-bit (NF4) or 8-bit weights of the bitsandbytes library; nothing is calibrated.",
    bits=(4, 8),
    served=Served(cuda=(7.5, ANY_NEWER), cpu=True, package="vllm-bnb-plugin"),
)
