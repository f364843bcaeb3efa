"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer does.

A GGUF file has only its name. llama.cpp's conversion recognises a tokenizer by what it makes of one long text, which a
vocabulary that was changed or made for the occasion does not pass, although its splitter is a known one. Here the
splitter itself is looked at then; that both make the same tokens is proven with the file (ask.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from export_worker.child.source import CannotExport

#: Expressions that text is split by, in tokenizer.json, and llama.cpp's name for each.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BY_EXPRESSION = {LLAMA3: "llama-bpe", QWEN2: "qwen2"}


def name(tokenizer: PreTrainedTokenizerBase, recognised: Callable[[PreTrainedTokenizerBase], str]) -> str:
    """Raises CannotExport for a splitter that llama.cpp has no name for."""
    try:
        return recognised(tokenizer)
    except NotImplementedError:
        pass
    steps = splitters(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"])
    found = by_steps(steps)
    if found is None:
        kinds = ", ".join(step["type"] for step in steps) or "nothing"
        raise CannotExport(
            f"llama.cpp has no name for the way this tokenizer splits text ({kinds}): a GGUF file of it would read "
            "prompts as other tokens than the training did",
            field="export_format",
        )
    return found


def by_steps(steps: list[dict[str, Any]]) -> str | None:
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return BY_EXPRESSION.get(steps[0]["pattern"].get("Regex", ""))
    return None


def splitters(told: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer in tokenizer.json, one after another."""
    if told is None:
        return []
    inner = told["pretokenizers"] if told["type"] == "Sequence" else [told]
    return [step for one in inner for step in (splitters(one) if one["type"] == "Sequence" else [one])]


def is_byte_level(folder: Path) -> bool:
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return any(step["type"] == "ByteLevel" for step in splitters(told.get("pre_tokenizer")))
