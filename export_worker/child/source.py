"""What is exported, and the ways to load it. The only place of the export that calls `from_pretrained` for weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from export_worker.child.shards import read_header
from shared.errors import TunesmithError

#: Of an adapter's folder, and before its tensors' names.
WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."


class CannotExport(TunesmithError):
    """This model cannot be exported."""

    code = "cannot_export"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A base model's folder and the adapters to merge into it, first to last."""

    model: Path
    adapters: tuple[Path, ...] = ()
    #: How much of each adapter's change is merged; empty: all of it.
    adapter_weights: tuple[float, ...] = ()
    trust_remote_code: bool = False
    #: Where models run when they are compared or merged in memory.
    device: str = "cpu"

    @property
    def weights(self) -> tuple[float, ...]:
        return self.adapter_weights or (1.0,) * len(self.adapters)

    def config(self) -> PretrainedConfig:
        return AutoConfig.from_pretrained(self.model, trust_remote_code=self.trust_remote_code)

    def empty(self) -> PreTrainedModel:
        """The model without weights: its modules, names and ties, in no memory."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config(), trust_remote_code=self.trust_remote_code)

    def load(self, folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
        """The base, or a model made from it."""
        # Safetensors or, inside transformers, torch.load(weights_only=True): never a pickle that runs code.
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=self.trust_remote_code)
        return model.to(self.device).eval()

    def load_quantized(self, folder: Path, config: Any) -> PreTrainedModel:
        """A model made from the base, each of its weights quantized as it is read."""
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            quantization_config=config,
            device_map=self.device,
            trust_remote_code=self.trust_remote_code,
        )

    def load_beside_disk(self, folder: Path, spill: Path, room: int) -> PreTrainedModel:
        """A model made from the base, to be gone through layer by layer; of its weights `room` bytes lie in memory, the
        others in the folder `spill`."""
        if sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= room:
            # On the CPU in any case: who goes through the layers brings each to where it computes.
            return replace(self, device="cpu").load(folder)
        from compressed_tensors.offload import load_offloaded_model

        with load_offloaded_model():
            return AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                device_map="auto_offload",
                max_memory={"cpu": room},
                offload_folder=str(spill),
                trust_remote_code=self.trust_remote_code,
            ).eval()

    def load_merged(self, adapters: Sequence[Path], dtype: torch.dtype | str = "auto") -> PreTrainedModel:
        """The base with these adapters merged in memory by peft."""
        model = self.load(self.model, dtype)
        for folder, weight in zip(adapters, self.weights, strict=False):
            model = put_on(model, folder, weight).merge_and_unload()
        return model

    def load_as_trained(self, dtype: torch.dtype | str = "auto") -> PreTrainedModel | PeftModel:
        """The base with its last adapter beside the weights, as it was trained; earlier ones are merged in."""
        if not self.adapters:
            return self.load(self.model, dtype)
        return put_on(self.load_merged(self.adapters[:-1], dtype), self.adapters[-1], self.weights[-1]).eval()

    def check(self) -> None:
        """Refuse at once what would fail after minutes, or quietly lose quality."""
        if not (self.model / "config.json").is_file():
            is_adapter = (self.model / "adapter_config.json").is_file()
            why = "an adapter: name its base, and it as adapter_name_or_path" if is_adapter else "without config.json"
            raise CannotExport(f"{self.model.name} is {why}", field="model_name_or_path")
        quantization: Any = getattr(self.config(), "quantization_config", None)
        if quantization is not None:
            # 4-bit codes cannot take up an adapter's change, and quantizing them again loses twice.
            raise CannotExport(
                f"{self.model.name} is quantized already ({quantization.get('quant_method')}): export from the model "
                "in full precision that it was made from",
                field="model_name_or_path",
            )


def put_on(model: PreTrainedModel, folder: Path, weight: float = 1.0) -> PeftModel:
    """The model with an adapter beside its weights; its vocabulary grows where the adapter's did."""
    rows = vocabulary(model, folder)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, folder)
    for module in adapted.modules() if weight != 1 else ():
        if isinstance(module, LoraLayer):
            module.set_scale("default", weight)
    return adapted


def vocabulary(model: PreTrainedModel, folder: Path) -> int | None:
    """Rows of the tables of tokens that the adapter brings; None: it brings none."""
    if not (folder / WEIGHTS).is_file():
        return None
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {f"{PREFIX}{name}.weight" for name, module in model.named_modules() if any(module is one for one in tables)}
    saved = (entry for entry in read_header(folder / WEIGHTS) if entry.name.replace(".base_layer.", ".") in names)
    return next((entry.shape[0] for entry in saved), None)


def local_folder(name: str) -> Path:
    """A folder as it is; a Hub id downloaded, without its pickled files where it has safetensors (the token comes with
    the environment)."""
    path = Path(name)
    if path.is_absolute():
        return path
    folder = Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pth", "*.gguf"]))
    if any(folder.glob("*.safetensors")):
        return folder
    return Path(snapshot_download(name, ignore_patterns=["*.pth", "*.gguf"]))


def choose_device(wanted: str) -> str:
    """`auto` takes the accelerator that the job holds; the worker hides those that it does not."""
    if wanted == "auto" and (found := torch.accelerator.current_accelerator(check_available=True)):
        return str(found)
    return "cpu"
