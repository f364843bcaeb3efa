"""GGUF for llama.cpp and Ollama: one file, and a Modelfile beside it. llama.cpp itself reads the file back.

The width of the weights is `export_gguf_type`. Files are not split (`export_size`): Ollama takes one file only.
"""

from __future__ import annotations

from typing import Any

from export_worker.child.llamacpp import ask, convert, modelfile
from export_worker.child.quantizers import Quantization
from export_worker.child.reading import ReadBack, Reading
from export_worker.child.source import Source


def check(source: Source) -> None:
    convert.check(source.model)


def quantize(work: Quantization) -> dict[str, Any]:
    type_name = str(work.gguf_type)
    # The Hub, LM Studio and Ollama find the type in the name.
    file = work.out / f"model-{type_name.upper()}.gguf"
    types = convert.write(work.model, file, type_name, name=work.name, watch=work.watch)
    modelfile.write(work.out, file.name, work.model, convert.ends(work.model))
    told = ", ".join(f"{count} {name}" for name, count in types.items())
    return {"method": type_name, "file": file.name, "tensors": told}


def read(back: ReadBack) -> Reading:
    [file] = back.folder.glob("*.gguf")
    return ask.read(file, back.tokenizer, back.questions, back.watch)
