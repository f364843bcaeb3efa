"""The small files that make weights a model: tokenizer, chat template, generation config, licence, config.json.

Copied as they are rather than loaded and saved again: a tokenizer that went through a library may answer differently (a
lost eos, another pre-tokenizer), and then the prompt at serving is no longer the prompt at training.
Not here: weights (merge.py), the model card (card.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from export_worker.child.source import Source

#: Files that belong to the tokenizer. One that the adapter was trained with replaces the base's, all of them together.
TOKENIZER = (
    "tokenizer*.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template.*",
    "additional_chat_templates/*",
    "tokenization_*.py",
)
#: Files that belong to the model.
MODEL = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
    "configuration_*.py",
    "modeling_*.py",
    "processing_*.py",
)


#: How config.json calls the number format, now and before transformers 5.
DTYPE = ("dtype", "torch_dtype")


def carry_over(
    source: Source, out: Path, *, differs: Mapping[str, Any] | None = None, template: str | None = None
) -> None:
    """Complete the folder of merged weights. `differs` is what its config says otherwise than the base's; `template` is
    Jinja to be asked with instead of the model's own."""
    trained_with = tokenizer_folder(source)
    copy(source.model, out, MODEL)
    copy(trained_with, out, TOKENIZER)
    # It says where the adapter was taught to end.
    copy(trained_with, out, ("generation_config.json",))
    if not (out / "config.json").is_file():
        write_config(source.model, out, differs or {})
    if template:
        set_template(out, template)


def tokenizer_folder(source: Source) -> Path:
    """Of the last adapter that was published with a tokenizer, else the model's."""
    with_words = (one for one in reversed(source.adapters) if (one / "tokenizer_config.json").is_file())
    return next(with_words, source.model)


def carry_unchanged(model: Path, out: Path) -> None:
    """The same for a quantized model made from a merged one: everything but weights and config.json."""
    copy(model, out, (*MODEL, *TOKENIZER))


def copy(folder: Path, out: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                target = out / file.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def write_config(model: Path, out: Path, differs: Mapping[str, Any]) -> None:
    config = json.loads((model / "config.json").read_text())
    # A model of several parts says of its text what other models say of themselves.
    parts = [config, *(part for part in [config.get("text_config")] if part)]
    for name, value in differs.items():
        known = [one for one in parts if name in one]
        for part in known or ([] if name == DTYPE[1] else [config]):
            part[name] = value
    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def set_template(out: Path, jinja: str) -> None:
    """Make this the model's chat template, in the one place where transformers and vLLM look first."""
    (out / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    file = out / "tokenizer_config.json"
    config = json.loads(file.read_text())
    if config.pop("chat_template", None) is not None:
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
