"""GGUF for llama.cpp and Ollama: one file, and a Modelfile beside it. llama.cpp itself reads the file back.

The width of the weights is `export_gguf_type`. Files are not split (`export_size`): Ollama takes one file only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export_worker.child import loading
from export_worker.child.asked import Sample
from export_worker.child.llamacpp import ask, convert, importance, modelfile
from export_worker.child.quantizers import Quantization
from export_worker.child.reading import ReadBack, Reading
from export_worker.child.source import Source
from shared.formats.gguf import FLOATS

#: Types whose weights are rounded the same whatever they are used for.
ROUND = ("q8_0",)


def check(source: Source) -> None:
    convert.check(source.model)


def quantize(work: Quantization) -> dict[str, Any]:
    type_name = str(work.gguf_type)
    # The Hub, LM Studio and Ollama find the type in the name.
    file = work.out / f"model-{type_name.upper()}.gguf"
    samples = texts(work, type_name)
    known = importance.measure(work.source.load(work.model), samples, work.watch) if samples else convert.NONE
    types = convert.write(work.model, file, type_name, name=work.name, watch=work.watch, importance=known)
    modelfile.write(work.out, file.name, work.model, convert.ends(work.model))
    return {
        "method": type_name,
        "file": file.name,
        "tensors": ", ".join(f"{count} {name}" for name, count in types.items()),
        "num_samples": len(samples),
        "num_tokens": sum(len(sample.input_ids) for sample in samples),
    }


def texts(work: Quantization, type_name: str) -> Sequence[Sample]:
    """Those that weigh the errors of quantized weights; none where that changes nothing, or the model is too large to
    read them."""
    if type_name in (*FLOATS, *ROUND):
        return []
    if not work.samples:
        work.say_uncalibrated()
        return []
    if why := loading.choose(work.model, work.source.device).left_out:
        work.watch.say(f"Texts do not weigh the errors of the weights: {why.split(':')[0]}.", level="warning")
        return []
    return importance.enough(work.samples)


def read(back: ReadBack) -> Reading:
    [file] = back.folder.glob("*.gguf")
    return ask.read(file, back.tokenizer, back.questions, back.watch)
