"""What a GGUF file says of its vocabulary, set from what the tokenizer does rather than guessed from its files.

llama.cpp has defaults of its own wherever a key is missing: a Llama 3 without `add_bos_token` gets a second
beginning-of-text, and an answer goes on for ever after a token that no key calls an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from gguf import GGUFValueType, TokenType
from transformers import PreTrainedTokenizerBase

#: Places for tokens that end an answer; llama.cpp stops at each of them.
END_KEYS = ("eos", "eot", "eom")


def complete(writer: Any, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], vocab_size: int | None) -> None:
    put(writer, "tokenizer.ggml.add_bos_token", adds_bos(tokenizer), GGUFValueType.BOOL)
    put(writer, "tokenizer.ggml.add_eos_token", adds_eos(tokenizer), GGUFValueType.BOOL)
    for key, token in zip(END_KEYS, end_tokens(tokenizer, ends), strict=False):
        put(writer, f"tokenizer.ggml.{key}_token_id", token, GGUFValueType.UINT32)
    if isinstance(tokenizer.chat_template, str):
        put(writer, "tokenizer.chat_template", settled(tokenizer.chat_template), GGUFValueType.STRING)
    pad(writer, vocab_size or 0)


def settled(template: str) -> str:
    """The template with thinking as it is by default: llama.cpp always says whether to think, and says no where it does
    not find out how a template writes thoughts."""
    return re.sub(r"enable_thinking \| default\((\w+)\)", r"\1", template)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)


def adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id)


def put(writer: Any, key: str, value: Any, type_: GGUFValueType) -> None:
    writer.kv_data[0].pop(key, None)
    writer.add_key_value(key, value, type_)


def end_tokens(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> list[int]:
    """The tokenizer's end first, which is what other programs call eos, then what else ends an answer."""
    first = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return list(dict.fromkeys([*first, *ends]))


def pad(writer: Any, vocab_size: int) -> None:
    """Names for rows of the embedding beyond the tokenizer's last token: llama.cpp counts the rows by the tokens."""
    lists: dict[str, Callable[[int], Any]] = {
        "tokens": lambda n: f"[PAD{n}]",
        "token_type": lambda _: TokenType.UNUSED,
        "scores": lambda _: -1000.0,
    }
    for key, value in lists.items():
        told = writer.kv_data[0].get(f"tokenizer.ggml.{key}")
        if told is not None:
            told.value.extend(value(n) for n in range(len(told.value), vocab_size))
