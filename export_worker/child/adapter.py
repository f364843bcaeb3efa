"""A PEFT adapter's folder understood as changes to named tensors of its base, without building a model.

Plain LoRA on linear, Conv1D and embedding layers with any rank or alpha pattern, rank-stabilised scaling, fully trained
modules (`modules_to_save`), trained biases, tokens and saved embeddings are understood here; of anything else peft's
own layers do the arithmetic, one at a time (layers.py). An adapter whose tensors have no place in the base is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key

from export_worker.child import layers
from export_worker.child.bones import Bones
from export_worker.child.changes import BadAdapter, Change, Product, Replacement, Rows
from export_worker.child.shards import Entry, read_header

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: Settings of a LoRA that change more than W + scale * B @ A.
BEYOND_PLAIN = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "use_qalora",
    "alora_invocation_tokens",
    "megatron_config",
    "arrow_config",
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)
FACTORS = ("lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B")
TOKENS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What one adapter does to its base."""

    #: In this order.
    changes: tuple[Change, ...]
    #: Whether only one of two tied tensors changes.
    unties: bool = False


def read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise BadAdapter(f"{folder.name} is not an adapter: it has no {CONFIG}", field="adapter_name_or_path")
    return json.loads((folder / CONFIG).read_text())


def why_not(folder: Path) -> str:
    """Why only peft in memory can merge this adapter; empty when it can be merged tensor by tensor."""
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        return f"it has no {WEIGHTS}"
    if config.get("layer_replication"):
        return "it repeats layers of the base (layer_replication)"
    names = (entry.name for entry in read_header(folder / WEIGHTS))
    if config.get("ensure_weight_tying") and any("embed" in name and "lora_" in name for name in names):
        return "its change of the embeddings is tied to another"
    return ""


def is_plain(config: Mapping[str, Any]) -> bool:
    return (
        config.get("peft_type") == "LORA"
        and not any(config.get(name) for name in BEYOND_PLAIN)
        and config.get("init_lora_weights", True) in layers.PLAIN_INIT
    )


def load(folder: Path, bones: Bones, weight: float = 1.0) -> Adapter:
    """Raises BadAdapter for one that holds what is not understood, or what has no place in the base."""
    config = read_config(folder)
    entries = {entry.name: entry for entry in read_header(folder / WEIGHTS)}
    factors = {name for name in entries if is_factor(name)}
    if is_plain(config) and all(bones.holds(f"{_module(name)}.weight") for name in factors):
        changes: list[Change] = list(_products(entries, factors, config, bones, weight))
    else:
        changes, factors = layers.load(folder, config, bones, weight)
    trained = [entries[name] for name in entries if name not in factors]
    whole, unties = _whole(trained, config, bones)
    _require(folder, [*whole, *changes], bones)
    # peft saves the base's embeddings beside a LoRA of them: those were not trained.
    full = [entry.name for entry in trained if not entry.name.endswith(".base_layer.weight")]
    if full and weight != 1:
        name = full[0].removeprefix(PREFIX)
        text = f"{folder.name} holds modules trained in full ({name}): it can have weight 1 only"
        raise BadAdapter(text, field="adapter_weights")
    ties = {name for pair in bones.tied.items() for name in pair}
    unties = unties or any(name in ties for change in changes for name in change.names)
    return Adapter(changes=(*whole, *changes), unties=unties)


def is_factor(name: str) -> bool:
    return any(name.endswith((f".{factor}", f".{factor}.weight")) for factor in FACTORS)


def _module(name: str) -> str:
    """ "model.layers.0.mlp.up_proj" of one of its factors' names."""
    factor = next(factor for factor in FACTORS if f".{factor}" in name)
    return name.removeprefix(PREFIX)[: name.removeprefix(PREFIX).rindex(f".{factor}")]


def _products(
    entries: Mapping[str, Entry], factors: Iterable[str], config: Mapping[str, Any], bones: Bones, weight: float
) -> Iterable[Product]:
    pairs: dict[str, dict[str, Entry]] = {}
    for name in factors:
        kind = next(factor for factor in FACTORS if f".{factor}" in name)
        pairs.setdefault(_module(name), {})[kind] = entries[name]
    for module, pair in pairs.items():
        yield _product(module, pair, config, bones, weight)


def _product(module: str, pair: Mapping[str, Entry], config: Mapping[str, Any], bones: Bones, weight: float) -> Product:
    embedding = any("embedding" in kind for kind in pair)
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if missing := [name for name in names if name not in pair]:
        raise BadAdapter(f"the adapter lacks {missing[0]} of {module}", field="adapter_name_or_path")
    a, b = (pair[name] for name in names)
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(ranks.keys(), module), config["r"])
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), config["lora_alpha"])
    if a.shape[0] != rank:
        raise BadAdapter(f"{module} has rank {a.shape[0]}, its {CONFIG} says {rank}", field="adapter_name_or_path")
    return Product(
        name=f"{module}.weight",
        a=a,
        b=b,
        # The order of operations is peft's (`set_scale` for a weight): the last bit depends on it.
        scale=weight * alpha / math.sqrt(rank) if config.get("use_rslora") else weight * alpha / rank,
        embedding=embedding,
        rounds=embedding or f"{module}.weight" not in bones.places,
        transposed=f"{module}.weight" in bones.transposed,
    )


def _whole(trained: Iterable[Entry], config: Mapping[str, Any], bones: Bones) -> tuple[list[Change], bool]:
    """Tensors and rows that were trained as they are, saved base weights first; whether one was of a tied pair."""
    saved = tuple(config.get("modules_to_save") or ())
    first: list[Change] = []
    then: list[Change] = []
    unties = False
    for entry in trained:
        name = entry.name.removeprefix(PREFIX)
        if name.endswith(TOKENS):
            table = f"{name.removesuffix(TOKENS)}.weight"
            indices = _indices(config, table)
            then += [Rows(name=one, new=entry, indices=indices) for one in bones.shared(table)]
        elif _belongs(name.rpartition(".")[0], saved) and not config.get("ensure_weight_tying"):
            then.append(_replacement(name, entry, bones))
            unties = unties or name in {one for pair in bones.tied.items() for one in pair}
        else:
            # A tensor of the base itself: whatever is tied to it is the same tensor.
            name = name.replace(".base_layer.", ".")
            first += [_replacement(one, entry, bones) for one in bones.shared(name)]
    return [*first, *then], unties


def _replacement(name: str, entry: Entry, bones: Bones) -> Replacement:
    return Replacement(name=name, new=entry, resizes=name in bones.vocabulary)


def _indices(config: Mapping[str, Any], table: str) -> tuple[int, ...]:
    said = config.get("trainable_token_indices") or ()
    if isinstance(said, dict):
        module = table.removesuffix(".weight")
        said = next((ids for name, ids in said.items() if f".{module}".endswith(f".{name}")), ())
    return tuple(said)


def _belongs(module: str, saved: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") or f".{name}." in f".{module}." for name in saved)


def _require(folder: Path, changes: list[Change], bones: Bones) -> None:
    """A change without a place in the base would be dropped in silence: the export would answer like the base."""
    strangers = sorted({name for change in changes for name in change.names if not bones.holds(name)})
    if strangers:
        raise BadAdapter(
            f"{len(strangers)} tensors of the adapter have no place in the base, the first is {strangers[0]}: "
            "it was trained on another base",
            field="adapter_name_or_path",
        )
    if not changes:
        raise BadAdapter(f"the adapter {folder.name} holds no weights", field="adapter_name_or_path")
