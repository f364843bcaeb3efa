"""What a training published, loaded the plain way: transformers and peft, no code of ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from torch.nn import functional
from training import Attempt, as_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from shared import datafiles, schema
from shared.conversation import Encoder
from shared.rows import Row
from shared.spec import TrainSpec
from trainer_worker.child import tokenizer as tokenizers


def model(folder: Path, base: Path) -> PreTrainedModel:
    """Base and adapter, or the whole model."""
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def loss(attempt: Attempt, base: Path, dataset: Path, folder: Path | None = None) -> float:
    """Mean over the answers' tokens, one sample at a time: what the trained model's own eval_loss must be."""
    folder = folder or attempt.output
    return plain_loss(model(folder, base), read(dataset), encoder(attempt, folder))


def plain_loss(network: PreTrainedModel, rows: list[Row], speaks: Encoder) -> float:
    total, count = 0.0, 0
    for sample in (speaks.sample(row) for row in rows):
        labels = [token if mark else -100 for token, mark in zip(sample.input_ids, sample.supervised, strict=True)]
        count += sum(label != -100 for label in labels)
        with torch.no_grad():
            logits = network(torch.tensor([sample.input_ids])).logits[0, :-1].float()
        total += functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item()
    return total / count


def encoder(attempt: Attempt, folder: Path | None = None) -> Encoder:
    """By the tokenizer that was published."""
    spec = schema.from_stored(TrainSpec, json.loads((attempt.folder / "run.json").read_text())["spec"])
    return tokenizers.encoder(AutoTokenizer.from_pretrained(folder or attempt.output), spec)


def read(dataset: Path) -> list[Row]:
    return list(datafiles.rows(as_dataset(dataset)))
