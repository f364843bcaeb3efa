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


def model(attempt: Attempt, base: Path) -> PreTrainedModel:
    """Base and adapter, or the whole model."""
    if (attempt.output / "adapter_config.json").exists():
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), attempt.output).eval()
    return AutoModelForCausalLM.from_pretrained(attempt.output).eval()


def loss(attempt: Attempt, base: Path, dataset: Path) -> float:
    """Mean over the answers' tokens, one sample at a time: what the trained model's own eval_loss must be."""
    return plain_loss(model(attempt, base), read(dataset), encoder(attempt))


def plain_loss(network: PreTrainedModel, rows: list[Row], speaks: Encoder) -> float:
    total, count = 0.0, 0
    for sample in (speaks.sample(row) for row in rows):
        labels = [token if mark else -100 for token, mark in zip(sample.input_ids, sample.supervised, strict=True)]
        count += sum(label != -100 for label in labels)
        with torch.no_grad():
            logits = network(torch.tensor([sample.input_ids])).logits[0, :-1].float()
        total += functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item()
    return total / count


def encoder(attempt: Attempt) -> Encoder:
    """By the tokenizer that was published."""
    spec = schema.from_stored(TrainSpec, json.loads((attempt.folder / "run.json").read_text())["spec"])
    return tokenizers.encoder(AutoTokenizer.from_pretrained(attempt.output), spec)


def read(dataset: Path) -> list[Row]:
    return list(datafiles.rows(as_dataset(dataset)))
