"""LoRA adapters beside the base, loaded and unloaded while it answers; each row of a batch has its own or none.

peft computes them. Which adapter a row has is told to its layers by a hook, from a value of the computing thread:
peft's own way changes the model for the length of a call, which two threads must not.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference_worker.child.transformers_server.refusal import Refusal

#: What peft calls a row without an adapter.
BASE = "__base__"
#: Of the names in its files: the model within the one that it made.
PREFIX = "base_model.model."


class Adapters:
    def __init__(self, model: Any, max_rank: int):
        self._model = model
        self._max_rank = max_rank
        #: peft's name by ours: modules cannot be called by names with a dot.
        self._names: dict[str, str] = {}
        self._folders: dict[str, Path] = {}
        #: Like `_names`: those that were unloaded while answers have them, which end with them.
        self._leaving: dict[str, str] = {}
        #: Names that answers have or wait with; of who computes.
        self.in_use: Callable[[], Collection[str]] = tuple
        self._num_loaded = 0
        self._hooked: set[int] = set()
        self._rows = threading.local()
        #: Layers must not change while they compute.
        self.lock = threading.RLock()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def folders(self) -> dict[str, Path]:
        """By the names of those that are loaded."""
        return dict(self._folders)

    def load(self, name: str, folder: Path) -> None:
        """Raises Refusal when it cannot be served beside others."""
        if name in self._names:
            raise Refusal(f"the adapter {name!r} is loaded already", "lora_name")
        if name in self._leaving:
            raise Refusal(f"the adapter {name!r} was unloaded, and an answer still has it: load it later", "lora_name")
        check(folder, self._max_rank)
        self._num_loaded += 1
        inner = f"adapter{self._num_loaded}"
        with self.lock:
            try:
                put_on(self._model, folder, inner)
            except (ValueError, RuntimeError, OSError, ImportError) as error:
                take_off(self._model, inner)
                why = " ".join(str(error).split())[:500]
                raise Refusal(f"the adapter {name!r} cannot be put on the model: {why}", "lora_path") from error
            self._hook()
            self._names[name], self._folders[name] = inner, folder

    def unload(self, name: str) -> None:
        """Nobody gets it from now on; it goes when no answer has it any more."""
        if name not in self._names:
            raise Refusal(f"the adapter {name!r} is not loaded", "lora_name", 404)
        del self._folders[name]
        self._leaving[name] = self._names[name]
        del self._names[name]
        self.drop_unused()

    def drop_unused(self) -> None:
        """Those that were unloaded and that no answer has."""
        if not self._leaving:
            return
        with self.lock:
            for name in [name for name in self._leaving if name not in self.in_use()]:
                take_off(self._model, self._leaving.pop(name))

    def are_on(self, name: str | None) -> bool:
        """Whether rows can have it: also one that is leaving."""
        return name is None or name in self._names or name in self._leaving

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """While it holds, row i of what this thread computes has adapter `names[i]`. Raises Refusal: without its
        adapter a row would get the base's answer."""
        with self.lock:
            self._rows.names = [BASE if name is None else self._inner(name) for name in names]
            try:
                yield
            finally:
                self._rows.names = None

    def _inner(self, name: str) -> str:
        inner = self._names.get(name) or self._leaving.get(name)
        if inner is None:
            raise gone(name)
        return inner

    def _hook(self) -> None:
        from peft.tuners.lora import LoraLayer

        for module in self._model.modules():
            if isinstance(module, LoraLayer) and id(module) not in self._hooked:
                module.register_forward_pre_hook(self._tell, with_kwargs=True)
                self._hooked.add(id(module))

    def _tell(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        names = getattr(self._rows, "names", None) or [BASE] * len(args[0])
        return args, kwargs | {"adapter_names": names}


def gone(name: str | None) -> Refusal:
    return Refusal(f"The model `{name}` does not exist: its adapter was unloaded.", "model", 404)


def put_on(model: Any, folder: Path, inner: str) -> None:
    """Layers for the adapter, filled from its files. Raises ValueError or RuntimeError where they do not fit: peft
    itself leaves random what a file lacks."""
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    inject_adapter_in_model(config, model, inner)
    given = load_peft_weights(str(folder), device="cpu")
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in given.items()}
    wanted = get_peft_model_state_dict(model, adapter_name=inner)
    if lacking := sorted(wanted.keys() - weights.keys()):
        raise ValueError(f"its files lack {lacking[0]}")
    if foreign := sorted(weights.keys() - wanted.keys()):
        raise ValueError(f"its files hold {foreign[0]}, for which the model has no layer")
    set_peft_model_state_dict(model, weights, adapter_name=inner)
    model.requires_grad_(False)
    model.eval()


def take_off(model: Any, inner: str) -> None:
    """Also of one that was put on in part."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and (inner in module.lora_A or inner in module.lora_embedding_A):
            module.delete_adapter(inner)
    getattr(model, "peft_config", {}).pop(inner, None)


def merged(model: Any, folder: Path) -> Any:
    """The model with an adapter of any kind that peft merges made part of its weights."""
    from peft import PeftModel

    network = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return network.eval().requires_grad_(False)


def shares(folder: Path, max_rank: int) -> bool:
    """Whether rows of one batch can have the adapter beside others."""
    try:
        check(folder, max_rank)
    except Refusal:
        return False
    return True


def check(folder: Path, max_rank: int) -> None:
    """Raises Refusal for what rows of one batch cannot have beside others."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise Refusal(f"no adapter can be read at the path given: {error}", "lora_path") from error
    kind = config.get("peft_type")
    if kind != "LORA":
        raise Refusal(f"the adapter is of kind {kind}: only LoRA is served beside a base; merge it", "lora_path")
    if config.get("use_dora"):
        raise Refusal("the adapter has DoRA, which rows of one batch cannot have beside others; merge it", "lora_path")
    if config.get("modules_to_save"):
        raise Refusal("the adapter has modules_to_save: whole layers of its own; merge it", "lora_path")
    if config.get("target_parameters"):
        raise Refusal("the adapter changes parameters that are no layer (target_parameters); merge it", "lora_path")
    rank = max([int(config.get("r", 0)), *(int(one) for one in (config.get("rank_pattern") or {}).values())])
    if rank > max_rank:
        raise Refusal(f"the adapter has rank {rank}: this server takes up to {max_rank}", "lora_path")
