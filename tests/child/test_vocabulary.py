"""The gateway reads a tokenizer's files itself: what it finds is what transformers finds in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training import make_tokenizer

from shared import schema, vocabulary
from shared.errors import InvalidSpec
from shared.rows import Row
from shared.spec import TrainSpec
from trainer_worker.child import tokenizer as tokenizers

SPEC = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", "cutoff_len": 64})
ROWS = [
    Row(messages=[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}])
    for text in (
        "Who are you?",
        "  two  spaces\n\nand lines\t",
        "<|im_end|> in a question",
        "\u00e4\u4f60\U0001f600",
        "12345",
    )
]


def test_ids_and_marks_are_those_of_the_training(tiny: Path) -> None:
    theirs = tokenizers.encoder(tokenizers.load(str(tiny), SPEC), SPEC)
    ours = vocabulary.encoder(vocabulary.read(tiny), SPEC)

    assert [ours.sample(row) for row in ROWS] == [theirs.sample(row) for row in ROWS]
    assert sorted(ours.stops) == sorted(theirs.stops)
    assert dict(ours.values) == dict(theirs.values)


def test_older_files_with_templates_by_name_are_read(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    end = {"content": "<|im_end|>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named, "eos_token": end}))

    found = vocabulary.read(tmp_path)

    assert (found.chat_template, found.eos_token, found.eos_token_id) == ("yes", "<|im_end|>", 2)


def test_without_any_template_the_spec_must_name_one(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()

    with pytest.raises(InvalidSpec, match="name one of"):
        vocabulary.encoder(vocabulary.read(tmp_path), SPEC)
