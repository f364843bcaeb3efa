"""Answers that the model writes itself, by transformers' generate, a batch of prompts at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, set_seed

from shared.conversation import Encoder
from shared.spec.evaluate import Decoding, EvaluateSpec
from trainer_worker.child.evaluation.loading import Loaded

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """The prompts that were prepared, the longest first: what does not fit shows at once."""
    with open(path, encoding="utf-8") as file:
        prompts = [json.loads(line) for line in file]
    return sorted(prompts, key=lambda prompt: -len(prompt["input_ids"]))


class Writer:
    def __init__(self, loaded: Loaded, spec: EvaluateSpec, encoder: Encoder):
        self._loaded, self._spec = loaded, spec
        self._ends = end_ids(loaded, encoder)
        # Only what the spec says: a model's own generation_config would add its temperature.
        self._config = config(spec.decoding, self._ends, loaded.tokenizer.pad_token_id)
        loaded.model.generation_config = self._config

    # b: prompts, t: tokens of the longest, m: tokens that are written at most
    def __call__(self, prompts: Sequence[Line]) -> list[Line]:
        """One line for each, in LF's words, and whether the answer came to its end."""
        ids, mask = padded([prompt["input_ids"] for prompt in prompts], self._ends[0])  # b t, b t
        device = self._loaded.device
        # The same draws whatever was done before: a resumed evaluation gives the same answers.
        set_seed((self._spec.measuring.seed + sum(prompt["row"] for prompt in prompts)) % 2**32)
        with torch.no_grad(), self._loaded.autocast():
            written = self._loaded.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=self._config
            )
        answers = written[:, ids.shape[1] :].tolist()  # b m
        return [self._line(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _line(self, prompt: Line, answer: list[int]) -> Line:
        end = next((place for place, token in enumerate(answer) if token in self._ends), None)
        kept = answer if end is None else answer[:end]
        decode, skip = self._loaded.tokenizer.decode, self._spec.decoding.skip_special_tokens
        return {
            "row": prompt["row"],
            "prompt": decode(prompt["input_ids"], skip_special_tokens=False),
            "predict": decode(kept, skip_special_tokens=skip).strip(),
            "label": prompt["label"],
            "num_tokens": len(kept),
            "is_finished": end is not None,
        }


def config(given: Decoding, ends: list[int], pad_id: int | None) -> GenerationConfig:
    drawn = {"temperature": given.temperature, "top_p": given.top_p, "top_k": max(0, given.top_k)}
    beams = {"num_beams": given.num_beams, "length_penalty": given.length_penalty} if given.num_beams > 1 else {}
    return GenerationConfig(
        do_sample=given.do_sample,
        max_new_tokens=given.max_new_tokens,
        repetition_penalty=given.repetition_penalty,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad_id is None else pad_id,
        **(drawn if given.do_sample else {}),
        **beams,
    )


def end_ids(loaded: Loaded, encoder: Encoder) -> list[int]:
    """Tokens at which an answer ends: the end of text, what the template ends turns with, and other special tokens."""
    found = (encoder.encode(text) for text in encoder.stops)
    return list(dict.fromkeys([encoder.end_id, *(ids[0] for ids in found if len(ids) == 1)]))


def padded(prompts: Sequence[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, filled up at the front: answers begin where prompts end."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
