"""Remarks on an export."""

from __future__ import annotations

from collections.abc import Iterator

from shared import formats
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import ExportSpec
from shared.tongues import Text

#: Fewer bits than these cost answers, not only figures.
FEW_BITS = 4


def quantized(spec: ExportSpec) -> Iterator[Finding]:
    made = formats.get(spec.export.chosen)
    bits = spec.export.export_quantization_bit or next(iter(made.bits), None)
    if bits is None:
        text = "Adapters need not be merged to be deployed: vLLM serves them beside their base."
        yield info("export_format", Origin.REFERENCE, text)
        return
    text = Text("{bits}-bit weights make the model smaller, not always faster.", bits=bits)
    yield info("export_format", Origin.REFERENCE, text, "Compare the measured tokens per second of both.")
    if bits < FEW_BITS:
        told = "{bits}-bit weights lose much: the export fails where export_max_perplexity_ratio is passed."
        advice = "Take 4 bits, or 1000 export_quantization_steps and many texts."
        yield warning("export_quantization_bit", Origin.REFERENCE, Text(told, bits=bits), advice)


CHECKS = (quantized,)
