"""What an export format declares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    name: str
    doc: str
    #: Bits of a weight; None: as the model has them.
    bits: int | None = None
    #: Whether this is what `export_quantization_bit` means by these bits.
    default: bool = False
    #: Whether texts are run through the model to choose the quantized weights.
    calibrated: bool = False
    #: What the catalog calls the result: "merged" or "quantized".
    makes: str = "quantized"
    #: Whether vLLM loads it.
    served: bool = True
