"""Which file holds which template (several names share one), its default system prompt, and where answers end in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    file: str
    #: System prompt of conversations that have none.
    system: str = ""
    stops: tuple[str, ...] = ()


CHATML_STOPS = ("<|im_end|>",)
ENTRIES: Mapping[str, Entry] = {
    "alpaca": Entry(
        file="alpaca.jinja",
        system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
        stops=("### Instruction:",),
    ),
    "chatml": Entry(file="chatml.jinja", stops=("<|im_end|>", "<|im_start|>")),
    "deepseekr1": Entry(file="deepseekr1.jinja"),
    "default": Entry(file="default.jinja"),
    "empty": Entry(file="empty.jinja"),
    "gemma": Entry(file="gemma.jinja", stops=("<end_of_turn>",)),
    "gemma2": Entry(file="gemma.jinja", stops=("<end_of_turn>",)),
    "llama2": Entry(file="llama2.jinja"),
    "llama3": Entry(file="llama3.jinja", stops=("<|eot_id|>", "<|eom_id|>")),
    "mistral": Entry(file="mistral.jinja"),
    "qwen": Entry(
        file="chatml.jinja",
        system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        stops=CHATML_STOPS,
    ),
    "qwen3_nothink": Entry(file="chatml.jinja", stops=CHATML_STOPS),
    "smollm": Entry(file="chatml.jinja", stops=CHATML_STOPS),
    "smollm2": Entry(
        file="chatml.jinja",
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        stops=CHATML_STOPS,
    ),
    "yi": Entry(file="chatml.jinja", stops=CHATML_STOPS),
}
