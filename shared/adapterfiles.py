"""What whoever serves a LoRA adapter must know of its files: how large it is, how it is asked, where its answers end.

Kept with the adapter's record when it is made, so that a place to serve it is found without its files. Whether a place
fits is shared/hosting.py's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

CONFIG, TEMPLATE, GENERATION = "adapter_config.json", "chat_template.jinja", "generation_config.json"
#: In the config of an adapter's record: all this.
SERVING = "serving"
#: Of adapter_config.json: what is no plain LoRA, which vLLM refuses, or passes over in silence.
EXTENSIONS = (
    "modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora",
    "use_qalora", "trainable_token_indices",
)  # fmt: skip
#: Other ways to begin change the base's weights when the adapter is loaded.
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    #: The largest of any of its matrices.
    rank: int
    #: What it has that vLLM does not serve.
    extensions: tuple[str, ...] = ()
    #: What it was trained with; None: its base's own.
    chat_template: str | None = None
    #: Its generation_config.json; None: its base's own.
    generation: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"extensions": list(self.extensions)}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        return cls(**{**stored, "extensions": tuple(stored.get("extensions", ()))})


def in_folder(folder: Path, *, own_template: bool) -> AdapterFiles:
    """`own_template`: the chat template beside the adapter is its base's own."""
    return parse(lambda name: (folder / name).read_bytes(), own_template=own_template)


def parse(read: Callable[[str], bytes], *, own_template: bool) -> AdapterFiles:
    """`read` gives a file's bytes, or raises FileNotFoundError."""
    config = json.loads(read(CONFIG))
    template, generation = _if_there(read, TEMPLATE), _if_there(read, GENERATION)
    return AdapterFiles(
        rank=rank(config),
        extensions=tuple(_extensions(config)),
        chat_template=None if own_template or template is None else template.decode(),
        generation=None if generation is None else json.loads(generation),
    )


def rank(config: Mapping[str, Any]) -> int:
    """The largest rank of any of its matrices, by its adapter_config.json."""
    return max([int(config.get("r", 0)), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())])


def _extensions(config: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in EXTENSIONS if config.get(name))
    if config.get("bias", "none") != "none":
        yield "bias"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        yield "init_lora_weights"


def _if_there(read: Callable[[str], bytes], name: str) -> bytes | None:
    try:
        return read(name)
    except FileNotFoundError:
        return None
