"""Stage pt: plain texts, every token learned, joined and cut into pieces or one by one; no chat template needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from training import ANSWERS, Attempt, make_attempt, make_tokenizer, train_here
from transformers import AutoTokenizer, LlamaForCausalLM

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 texts of different lengths."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [{"text": " ".join(ANSWERS[(i + k) % 5] for k in range(2 + i % 7))} for i in range(16)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a base model is: without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "base"
    LlamaForCausalLM.from_pretrained(tiny).save_pretrained(folder)
    plain = make_tokenizer()
    plain.chat_template = None
    plain.save_pretrained(folder)
    return folder


def pt(folder: Path, model: Path, data: Path, **spec: Any) -> Attempt:
    return make_attempt(folder, model, data, **({"stage": "pt", "cutoff_len": 48} | spec))


def joined(texts: Path) -> list[int]:
    rows = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    return [token for text in rows for token in [*TOKENIZER.encode(text, add_special_tokens=False), 2]]


def test_joined_texts_are_learned_whole_in_pieces_of_cutoff_len(tmp_path: Path, base: Path, texts: Path) -> None:
    spec = {"per_device_train_batch_size": 100, "max_steps": 1, "finetuning_type": "full"}
    attempt = train_here(pt(tmp_path / "a", base, texts, **spec))

    model, ids = LlamaForCausalLM.from_pretrained(base), joined(texts)
    pieces = [torch.tensor(ids[start : start + 48]) for start in range(0, len(ids), 48)]
    with torch.no_grad():
        losses = [functional.cross_entropy(model(p[None]).logits[0, :-1], p[1:], reduction="sum") for p in pieces]
    expected = sum(loss.item() for loss in losses) / sum(len(piece) - 1 for piece in pieces)
    assert len(pieces) > 5 and len(pieces[-1]) < 48
    assert attempt.losses == pytest.approx([expected], rel=1e-5)
    assert attempt.outcome["data"]["num_tokens"] == len(ids)


def test_texts_of_their_own_are_cut_at_cutoff_len(tmp_path: Path, base: Path, texts: Path) -> None:
    attempt = train_here(pt(tmp_path / "a", base, texts, packing=False, num_train_epochs=1))

    stats = attempt.of("message")[0]
    assert stats["num_samples"] == 16 and stats["length_max"] == 48 and stats["num_cut"] > 0
    assert attempt.outcome["data"]["num_tokens"] == stats["num_tokens"] < len(joined(texts))


@pytest.mark.parametrize(
    ("method", "expected"),
    [("lora", [5.9495635, 5.5401597]), ("full", [5.9495635, 3.4635165]), ("freeze", [5.9495635, 5.4158683])],
)
def test_losses_are_pinned(tmp_path: Path, base: Path, texts: Path, method: str, expected: list[float]) -> None:
    attempt = train_here(pt(tmp_path / "a", base, texts, finetuning_type=method, max_steps=6))

    assert [attempt.losses[0], attempt.losses[-1]] == pytest.approx(expected, rel=1e-5)


def test_the_output_of_a_base_model_has_no_template_either(tmp_path: Path, base: Path, texts: Path) -> None:
    attempt = train_here(pt(tmp_path / "a", base, texts, max_steps=1, val_size=0.25))

    assert AutoTokenizer.from_pretrained(attempt.output).chat_template is None
    assert "eval_loss" in attempt.outcome["data"]["metrics"]


def test_one_preparation_serves_no_other_stage_or_packing(tmp_path: Path, tiny: Path, texts: Path, rows: Path) -> None:
    attempts = [
        train_here(pt(tmp_path / "a", tiny, texts, max_steps=1)),
        train_here(pt(tmp_path / "b", tiny, texts, max_steps=1, packing=False)),
        train_here(make_attempt(tmp_path / "c", tiny, rows, max_steps=1, cutoff_len=48)),
        train_here(pt(tmp_path / "d", tiny, texts, max_steps=1, learning_rate=1e-3)),
    ]

    assert [attempt.of("message")[0]["reused"] for attempt in attempts] == [False, False, False, True]
