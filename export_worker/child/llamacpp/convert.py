"""A folder of safetensors -> one GGUF file, tensor by tensor: llama.cpp's conversion, and what it gets wrong put right.

The conversion names and shapes the tensors and describes model and vocabulary; the weights stay on the disk until each
is quantized and written. Not here: which types (types.py), how they are made (ggml.py), whether the file is right
(ask.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export_worker.child.llamacpp import ggml, pretokenizer, types, vocabulary
from export_worker.child.llamacpp.importance import Importance
from export_worker.child.source import CannotExport
from export_worker.child.watch import Watch

#: Nothing is known of the weights' use.
NONE: Importance = {}


def check(folder: Path) -> None:
    """Raises CannotExport, with what can be written, for a model that llama.cpp has no conversion for."""
    conversion, hparams = load(folder)
    named = hparams.get("architectures") or ["of config.json, which names none"]
    if named[0] not in conversion.module.TEXT_MODEL_MAP:
        known = sorted(name for name in conversion.module.TEXT_MODEL_MAP if name.endswith(("CausalLM", "LMHeadModel")))
        raise CannotExport(
            f"llama.cpp has no conversion for the architecture {named[0]}: export_format gguf can write "
            f"{', '.join(known)}",
            field="export_format",
        )


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """llama.cpp's conversion, and the model's parameters as it reads them. Never fetched from anywhere."""
    logging.getLogger("hf-to-gguf").setLevel(logging.ERROR)
    conversion = get_conversion(None, auto_update=False)
    logging.getLogger("hf-to-gguf").setLevel(logging.ERROR)
    return conversion, conversion.ModelBase.load_hparams(folder, False)


def converter(folder: Path, out: Path, file_type: gguf.LlamaFileType) -> Any:
    """llama.cpp's class for this model, its tensors named and lazy."""
    conversion, hparams = load(folder)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    found = conversion.get_model_class(architecture)

    class Converter(found):  # type: ignore[misc, valid-type]
        """A class of its own because the library asks its questions of methods."""

        model_arch = found.model_arch

        def __init__(self, *given: Any) -> None:
            #: By tensor of the file, the model's weights that it is made of.
            self.made_of: dict[str, list[str]] = {}
            super().__init__(*given)

        def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Iterable[tuple[str, Any]]:
            for tensor, values in super().modify_tensors(data_torch, name, bid):
                self.made_of.setdefault(tensor, []).append(name)
                yield tensor, values

        def get_vocab_base_pre(self, tokenizer: PreTrainedTokenizerBase) -> str:
            return pretokenizer.name(tokenizer, super().get_vocab_base_pre)

        def _set_vocab_llama_hf(self) -> None:
            # Llamas with byte-level vocabularies come past here, and one that allows byte fallback (SmolLM2 restored
            # from a GGUF does) would be written as SentencePiece: llama.cpp then fails on the first space.
            if pretokenizer.is_byte_level(folder):
                raise FileNotFoundError("a byte-level vocabulary")
            super()._set_vocab_llama_hf()

    model = Converter(folder, file_type, out)
    model.prepare_tensors()
    return model


def write(
    folder: Path, out: Path, type_name: str, *, name: str, watch: Watch, importance: Importance = NONE
) -> dict[str, int]:
    """Write the file; returns how many tensors have each type."""
    kept = {tensor: info.dtype for tensor, info in tensors(converter(folder, out, gguf.LlamaFileType.MOSTLY_F16))}
    model = converter(folder, out, gguf.LlamaFileType.ALL_F32)
    lazy = dict(tensors(model))
    chosen = types.choose(type_name, kept, {tensor: info.shape for tensor, info in lazy.items()}, model)
    declare(model, chosen)
    describe(model, folder, type_name, name)
    writer = model.gguf_writer
    writer.write_header_to_file(path=out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(info.nbytes for _, info in tensors(model))
    done = 0
    for tensor in list(lazy):
        info = lazy.pop(tensor)
        values = np.asarray(gguf.LazyNumpyTensor.to_eager(info.tensor), dtype=np.float32).reshape(info.shape)
        parts = []
        for part in ggml.quantize(values, chosen[tensor], important(model, tensor, importance)):
            parts.append(part)
            done += part.nbytes
            watch.progress(done, total, "bytes")
        writer.write_tensor_data(np.concatenate(parts))
    writer.close()
    return count(chosen)


def important(model: Any, tensor: str, importance: Importance) -> np.ndarray | None:
    """Of a tensor that is one weight of the model; None: not measured, or put together of several."""
    made_of = model.made_of.get(tensor, [])
    return importance.get(made_of[0]) if len(made_of) == 1 else None


def tensors(model: Any) -> list[tuple[str, Any]]:
    return [*model.gguf_writer.tensors[0].items()]


def declare(model: Any, chosen: dict[str, gguf.GGMLQuantizationType]) -> None:
    """Tell the writer the types and sizes that the tensors will have."""
    table = model.gguf_writer.tensors[0]
    for tensor, info in table.items():
        size = ggml.num_bytes(int(np.prod(info.shape)), chosen[tensor])
        table[tensor] = replace(info, dtype=chosen[tensor], nbytes=size, tensor=None)


def describe(model: Any, folder: Path, type_name: str, name: str) -> None:
    """The file's metadata: llama.cpp's own, and what the tokenizer's behaviour says where that guesses."""
    model.ftype = types.FILE_TYPES[type_name]
    model.model_name = name
    model.prepare_metadata(vocab_only=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary.complete(model.gguf_writer, tokenizer, ends(folder), model.hparams.get("vocab_size"))


def ends(folder: Path) -> list[int]:
    """Tokens that end an answer, as whoever serves the folder takes them."""
    file = folder / "generation_config.json"
    told = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
    return [told] if isinstance(told, int) else list(told or [])


def count(chosen: dict[str, gguf.GGMLQuantizationType]) -> dict[str, int]:
    names = [type_.name.lower() for type_ in chosen.values()]
    return {name: names.count(name) for name in sorted(set(names))}
