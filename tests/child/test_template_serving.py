"""A model is served with what it was trained with: what is published renders in plain transformers to the same text."""

from __future__ import annotations

from typing import Any

import pytest
from training import SPECIAL, make_tokenizer

from shared import schema, templates
from shared.spec import TrainSpec
from shared.templates.render import Program
from trainer_worker.child import tokenizer as tokenizers
from trainer_worker.child.tokenizer import known

NAMES = [name for name in templates.names() if name != templates.OWN]
TOOLS = [{"type": "function", "function": {"name": "now", "description": "Time", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC", "late": True}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNoon."},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize("name", NAMES)
def test_transformers_writes_the_same_text(name: str) -> None:
    made = make_tokenizer()
    made.chat_template = templates.get(name).jinja
    ours = Program(made.chat_template, seconds=20).render(
        TALK, tools=TOOLS, add_generation_prompt=True, bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )

    assert made.apply_chat_template(TALK, tools=TOOLS, add_generation_prompt=True, tokenize=False) == ours


@pytest.mark.parametrize(
    "said",
    [
        {"template": "qwen", "default_system": "Rhyme.", "tool_format": "glm4_moe"},
        {"template": "qwen3", "enable_thinking": False},
        {"template": "llama3", "default_system": ""},
        {"default_system": "Rhyme."},
        {},
    ],
)
def test_what_is_published_asks_as_the_training_did(said: dict[str, Any], tmp_path: Any) -> None:
    make_tokenizer().save_pretrained(tmp_path / "base")
    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", **said})

    tokenizers.load(str(tmp_path / "base"), spec).save_pretrained(tmp_path / "published")

    served = tokenizers.load(
        str(tmp_path / "published"), schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d"})
    )
    encoder = tokenizers.encoder(tokenizers.load(str(tmp_path / "base"), spec), spec)
    asked = encoder.program.render(TALK[:1], add_generation_prompt=True, **known(served).values)
    assert served.apply_chat_template(TALK[:1], add_generation_prompt=True, tokenize=False) == asked
    assert ("Rhyme." in asked) is ("Rhyme." in said.values())
    assert (tmp_path / "published" / "chat_template.jinja").is_file()


def test_the_end_that_a_template_brings_is_published_with_the_tokenizer(tmp_path: Any) -> None:
    base = make_tokenizer()
    base.eos_token = "<|endoftext|>"
    base.save_pretrained(tmp_path / "base")
    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", "template": "qwen"})

    tokenizers.load(str(tmp_path / "base"), spec).save_pretrained(tmp_path / "published")

    plain = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d"})
    assert tokenizers.load(str(tmp_path / "published"), plain).eos_token == "<|im_end|>"
