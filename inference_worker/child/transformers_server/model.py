"""The model on its device, its tokenizer, and what its files say about how it answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from inference_worker.child.transformers_server.constraints import Grammars

log = logging.getLogger(__name__)

#: Members of generation_config.json that stand for what a request leaves out, and their names in requests.
DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What all requests share."""

    model: Any
    tokenizer: Any
    device: torch.device
    #: Longest prompt and answer together, tokens.
    max_model_len: int
    eos_token_ids: frozenset[int]
    #: For what a request leaves out.
    defaults: Mapping[str, float]
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any]
    vocabulary_size: int
    grammars: Grammars


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is loaded, and how."""

    folder: str
    dtype: str
    max_model_len: int
    #: Jinja file in place of the model's own chat template.
    chat_template: Path | None
    chat_template_kwargs: Mapping[str, Any]
    #: Folder of the generation_config.json that counts.
    generation: str
    trust_remote_code: bool
    num_devices: int


def load(source: Source) -> Served:
    code = {"trust_remote_code": source.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(source.folder, **code)
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=_dtype(source.dtype), **_placed(source), **code)
    model.eval().requires_grad_(False)
    device = model.get_input_embeddings().weight.device
    log.info("Loaded %s in %s on %s", type(model).__name__, model.dtype, device)
    config = generation_config(source.generation)
    size, ends = int(model.config.get_text_config(decoder=True).vocab_size), eos_token_ids(tokenizer, config)
    return Served(
        model=model,
        tokenizer=tokenizer,
        device=device,
        max_model_len=source.max_model_len,
        eos_token_ids=ends,
        defaults={ours: config[theirs] for theirs, ours in DEFAULTS.items() if config.get(theirs) is not None},
        chat_template=source.chat_template.read_text(encoding="utf-8") if source.chat_template else None,
        chat_template_kwargs=source.chat_template_kwargs,
        vocabulary_size=size,
        grammars=Grammars(tokenizer, size, ends),
    )


def _dtype(name: str) -> Any:
    return "auto" if name == "auto" else getattr(torch, name)


def _placed(source: Source) -> dict[str, Any]:
    """On several cards its layers are spread over them."""
    if not torch.cuda.is_available():
        return {}
    return {"device_map": "auto" if source.num_devices > 1 else {"": 0}}


def generation_config(folder: str) -> dict[str, Any]:
    """What generation_config.json says, without transformers' own defaults; empty where there is none."""
    try:
        config: dict[str, Any] = GenerationConfig.from_pretrained(folder).to_diff_dict()
    except OSError:
        return {}
    return config


def eos_token_ids(tokenizer: Any, config: Mapping[str, Any]) -> frozenset[int]:
    """The tokenizer's, and all that the config names."""
    named = config.get("eos_token_id")
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in [tokenizer.eos_token_id, *listed] if token is not None)


def kwargs_of(text: str | None) -> Mapping[str, Any]:
    given: dict[str, Any] = json.loads(text) if text else {}
    return given
