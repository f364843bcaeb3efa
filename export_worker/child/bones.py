"""What a model's class says about its tensors, found without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from export_worker.child import renaming
from export_worker.child.renaming import Group
from export_worker.child.shards import Entry


@dataclass(frozen=True, kw_only=True)
class Bones:
    #: The class without weights.
    model: PreTrainedModel
    #: What lies in the base's files, by the name there.
    entries: Mapping[str, Entry]
    groups: tuple[Group, ...]
    #: Tied name -> the name whose tensor it shares.
    tied: Mapping[str, str]
    #: Weights that are stored as (in, out).
    transposed: frozenset[str]
    #: Tensors with a row for each token.
    vocabulary: frozenset[str]
    #: Group of each tensor of the model that the files hold.
    places: Mapping[str, Group]

    def holds(self, name: str) -> bool:
        """Whether there is such a tensor to change, by its name in the model or in the files."""
        return name in self.places or name in self.entries or name in self.tied

    def shared(self, name: str) -> list[str]:
        """All names of the tensor in the model; the files need not hold each."""
        kept = self.tied.get(name, name)
        return [kept, *(twin for twin, other in self.tied.items() if other == kept)]

    def name_in_files(self, name: str) -> str:
        weight = torch.empty(1, device="meta")
        return next(iter(revert_weight_conversion(self.model, {name: weight})))


def find(model: PreTrainedModel, entries: Mapping[str, Entry]) -> Bones:
    """`model` has no weights."""
    groups = renaming.group(model, entries)
    names = {module: name for name, module in model.named_modules()}
    tables = [names.get(table) for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    return Bones(
        model=model,
        entries=entries,
        groups=tuple(groups),
        tied=dict(model.all_tied_weights_keys) if model.config.get_text_config().tie_word_embeddings else {},
        transposed=frozenset(f"{name}.weight" for module, name in names.items() if isinstance(module, Conv1D)),
        vocabulary=frozenset(f"{name}.{part}" for name in tables if name for part in ("weight", "bias")),
        places={target: one for one in groups for target in one.targets},
    )
