"""Remarks on an export."""

from __future__ import annotations

from collections.abc import Iterator

from shared import formats
from shared.advice.finding import Finding, Origin, info
from shared.spec import ExportSpec
from shared.tongues import Text


def quantized(spec: ExportSpec) -> Iterator[Finding]:
    made = formats.get(spec.export.chosen)
    bits = spec.export.export_quantization_bit or next(iter(made.bits), None)
    if bits is None:
        text = "Adapters need not be merged to be deployed: vLLM serves them beside their base."
        yield info("export_format", Origin.REFERENCE, text)
        return
    text = Text("{bits}-bit weights make the model smaller, not always faster.", bits=bits)
    yield info("export_format", Origin.REFERENCE, text, "Compare the measured tokens per second of both.")


CHECKS = (quantized,)
