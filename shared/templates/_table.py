"""Which file holds which template (several names may share one), and where answers end in it."""

from __future__ import annotations

from collections.abc import Mapping

FILES: Mapping[str, str] = {
    "alpaca": "alpaca.jinja",
    "chatml": "chatml.jinja",
    "default": "default.jinja",
    "empty": "empty.jinja",
    "llama3": "llama3.jinja",
    "mistral": "mistral.jinja",
    "qwen": "qwen.jinja",
    "qwen3_nothink": "qwen3_nothink.jinja",
    "smollm": "chatml.jinja",
    "smollm2": "smollm2.jinja",
    "vicuna": "vicuna.jinja",
    "zephyr": "zephyr.jinja",
}
STOPS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "llama3": ("<|eot_id|>", "<|eom_id|>"),
    "qwen": ("<|im_end|>",),
    "qwen3_nothink": ("<|im_end|>",),
    "smollm": ("<|im_end|>",),
    "smollm2": ("<|im_end|>",),
}
