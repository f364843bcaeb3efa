"""What is exported, and the ways to load it. The only place of the export that calls `from_pretrained` for weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from shared.errors import TunesmithError


class CannotExport(TunesmithError):
    """This model cannot be exported."""

    code = "cannot_export"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A base model's folder and the adapters to merge into it, first to last."""

    model: Path
    adapters: tuple[Path, ...] = ()
    trust_remote_code: bool = False

    def config(self) -> PretrainedConfig:
        return AutoConfig.from_pretrained(self.model, trust_remote_code=self.trust_remote_code)

    def empty(self) -> PreTrainedModel:
        """The model without weights: its modules, names and ties, in no memory."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config(), trust_remote_code=self.trust_remote_code)

    def load(self, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
        return load_model(self.model, dtype, trust_remote_code=self.trust_remote_code)

    def load_merged(self, adapters: Sequence[Path], dtype: torch.dtype | str = "auto") -> PreTrainedModel:
        """The base with these adapters merged in memory by peft."""
        model = self.load(dtype)
        for folder in adapters:
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        return model

    def load_as_trained(self, dtype: torch.dtype | str = "auto") -> PreTrainedModel | PeftModel:
        """The base with its last adapter beside the weights, as it was trained; earlier ones are merged in."""
        if not self.adapters:
            return self.load(dtype)
        return PeftModel.from_pretrained(self.load_merged(self.adapters[:-1], dtype), self.adapters[-1])

    def refuse_quantized(self) -> None:
        """4-bit codes cannot take up an adapter's change, and quantizing them again loses twice."""
        quantization: Any = getattr(self.config(), "quantization_config", None)
        if quantization is not None:
            raise CannotExport(
                f"{self.model.name} is quantized already ({quantization.get('quant_method')}): export from the model "
                "in full precision that it was made from",
                field="model_name_or_path",
            )


def load_model(folder: Path, dtype: torch.dtype | str = "auto", *, trust_remote_code: bool = False) -> PreTrainedModel:
    # Safetensors or, inside transformers, torch.load(weights_only=True): never a pickle that runs code.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval()
