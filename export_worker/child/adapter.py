"""A PEFT adapter's folder understood as changes to named tensors of its base, without building a model.

Covered: plain LoRA on linear, Conv1D and embedding layers with any rank or alpha pattern, rank-stabilised scaling,
fully trained modules (`modules_to_save`), trained biases, and saved embeddings. For anything else `why_not` says what
it is, and merge.py lets peft do the merge. An adapter whose tensors have no place in the base is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key

from export_worker.child.shards import Entry, read, read_header
from shared.errors import TunesmithError

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: Settings of a LoRA that change more than W + scale * B @ A.
BEYOND_PLAIN = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "alora_invocation_tokens",
    "megatron_config",
    "arrow_config",
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "kasa_config",
    "ensure_weight_tying",
)
#: Initialisations that leave the base's weights as they are; the others (pissa, olora, ...) replace them by a residual.
PLAIN_INIT = (True, False, "gaussian", "orthogonal", "eva")


class BadAdapter(TunesmithError):
    """The adapter does not fit its base model."""

    code = "bad_adapter"


@dataclass(frozen=True, kw_only=True)
class Delta:
    """W + scale * B @ A for one tensor."""

    a: Entry  # (rank, in); for an embedding (rank, vocabulary)
    b: Entry  # (out, rank); for an embedding (dimension, rank)
    scale: float
    #: Embeddings keep their factors the other way round, and peft rounds their delta before adding it.
    embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapter:
    folder: Path
    config: dict[str, Any]
    deltas: dict[str, Delta] = field(default_factory=dict)
    #: Tensors of modules trained in full: they belong to that name only, also where the base ties two names.
    own: dict[str, Entry] = field(default_factory=dict)
    #: Base weights that were saved with the adapter (trained biases, embeddings): they replace the base's.
    base: dict[str, Entry] = field(default_factory=dict)

    def touches(self, name: str) -> bool:
        return name in self.deltas or name in self.own


def read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise BadAdapter(f"{folder.name} is not an adapter: it has no {CONFIG}", field="adapter_name_or_path")
    return json.loads((folder / CONFIG).read_text())


def why_not(folder: Path) -> str:
    """Why this adapter cannot be merged tensor by tensor; empty when it can."""
    config = read_config(folder)
    if config.get("peft_type") != "LORA":
        return f"its type is {config.get('peft_type')}"
    if not (folder / WEIGHTS).is_file():
        return f"it has no {WEIGHTS}"
    if beyond := [name for name in BEYOND_PLAIN if config.get(name)]:
        return f"it uses {', '.join(beyond)}"
    if (init := config.get("init_lora_weights", True)) not in PLAIN_INIT:
        return f"its initialisation {init!r} changes the base"
    return ""


def load(folder: Path) -> Adapter:
    """Sort the adapter's tensors by what they change. Raises BadAdapter for one that is none of what is covered."""
    config = read_config(folder)
    adapter = Adapter(folder=folder, config=config)
    factors: dict[str, dict[str, Entry]] = {}
    saved = tuple(config.get("modules_to_save") or ())
    for entry in read_header(folder / WEIGHTS):
        name = entry.name.removeprefix(PREFIX)
        module, factor = _split(name)
        if factor:
            factors.setdefault(module, {})[factor] = entry
        elif _belongs(name.rpartition(".")[0], saved):
            adapter.own[name] = entry
        else:
            adapter.base[name.replace(".base_layer.", ".")] = entry
    for module, pair in factors.items():
        adapter.deltas[f"{module}.weight"] = _delta(module, pair, config)
    return adapter


def _split(name: str) -> tuple[str, str]:
    """("model.layers.0.mlp.up_proj", "lora_A") of a factor's name; ("", "") for any other tensor."""
    for factor in ("lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B"):
        if name.endswith((f".{factor}", f".{factor}.weight")):
            return name[: name.rindex(f".{factor}")], factor
    if "lora_" in name.rpartition(".")[0]:
        raise BadAdapter(f"the adapter holds {name}, which is not understood", field="adapter_name_or_path")
    return "", ""


def _belongs(module: str, saved: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") or f".{name}." in f".{module}." for name in saved)


def _delta(module: str, pair: dict[str, Entry], config: dict[str, Any]) -> Delta:
    embedding = "lora_embedding_A" in pair
    try:
        a, b = (
            pair["lora_embedding_A" if embedding else "lora_A"],
            pair["lora_embedding_B" if embedding else "lora_B"],
        )
    except KeyError as missing:
        raise BadAdapter(f"the adapter lacks {missing} of {module}", field="adapter_name_or_path") from None
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(ranks.keys(), module), config["r"])
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), config["lora_alpha"])
    if a.shape[0] != rank:
        raise BadAdapter(f"{module} has rank {a.shape[0]}, its {CONFIG} says {rank}", field="adapter_name_or_path")
    # The order of operations is peft's: the last bit depends on it.
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Delta(a=a, b=b, scale=scale, embedding=embedding)


def add_delta(weight: torch.Tensor, delta: Delta, *, transposed: bool) -> None:
    """Add one adapter's change in place, in the order and the types in which peft does it."""
    a, b = read(delta.a).float(), read(delta.b).float()
    change = b @ a  # (out, in)
    if transposed or delta.embedding:
        change = change.T
    if change.shape != weight.shape:
        raise BadAdapter(
            f"the adapter's change of {delta.a.name.removeprefix(PREFIX)} has shape {tuple(change.shape)}, the base's "
            f"tensor {tuple(weight.shape)}: it was trained on another base",
            field="adapter_name_or_path",
        )
    change = change * delta.scale
    weight += change.to(weight.dtype) if delta.embedding else change
