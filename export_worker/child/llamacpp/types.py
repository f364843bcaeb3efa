"""Which type each tensor of a GGUF file gets: llama.cpp's mixes, with its answer to rows that no block divides.

A mix such as q4_k_m gives more bits to the tensors that suffer most; AutoRound has llama.cpp's table of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from auto_round.export.export_to_gguf.gguf_dtype import GGUFDTypeSelector
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

#: What `general.file_type` of the file says, by the export's name.
FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q5_k_s": LlamaFileType.MOSTLY_Q5_K_S,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q4_k_s": LlamaFileType.MOSTLY_Q4_K_S,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q3_k_l": LlamaFileType.MOSTLY_Q3_K_L,
    "q3_k_m": LlamaFileType.MOSTLY_Q3_K_M,
    "q3_k_s": LlamaFileType.MOSTLY_Q3_K_S,
    "q2_k": LlamaFileType.MOSTLY_Q2_K,
}
#: The k-quants have blocks of 256 weights, which does not divide every width (576 is 64 * 9): llama.cpp then takes the
#: nearest type with blocks of 32.
SMALLER_BLOCKS = {
    GGMLQuantizationType.Q2_K: GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q3_K: GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_K: GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}


def choose(
    name: str, kept: Mapping[str, GGMLQuantizationType], shapes: Mapping[str, Sequence[int]], model: Any
) -> dict[str, GGMLQuantizationType]:
    """The type of each tensor. `kept` is what the conversion gives it when asked for float16: what it leaves in float32
    even then (norms, routers of experts) stays so."""
    selector = GGUFDTypeSelector(
        model.hparams,
        FILE_TYPES[name],
        model_arch=model.model_arch,
        n_layer=model.block_count,
        # Without a head of its own the embedding is the head, and the head is worth more bits.
        has_tied_embeddings="output.weight" not in shapes,
    )
    chosen = {}
    for tensor in in_layer_order(shapes):
        wanted = selector.select_qtype(tensor, len(shapes[tensor]))
        free = kept[tensor] == GGMLQuantizationType.F16
        chosen[tensor] = fitting(wanted, shapes[tensor][-1]) if free else kept[tensor]
    return chosen


def in_layer_order(names: Iterable[str]) -> list[str]:
    """As llama.cpp goes through them: the mixes count layers by their occurrence, and files have layer 10 before 2."""

    def place(name: str) -> tuple[int, str]:
        found = re.match(r"blk\.(\d+)\.", name)
        return (int(found[1]) if found else -1, name)

    return sorted(names, key=place)


def fitting(wanted: GGMLQuantizationType, width: int) -> GGMLQuantizationType:
    """The type, or the one that takes its place where its blocks do not divide rows of this width."""
    for type_ in (wanted, SMALLER_BLOCKS.get(wanted, wanted)):
        if width % GGML_QUANT_SIZES[type_][0] == 0:
            return type_
    return GGMLQuantizationType.F16
