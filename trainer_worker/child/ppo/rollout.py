"""Answers that a model draws to a batch of prompts, and what models say of them token by token.

Prompts are filled up at the left, answers at the right, so that in each batch all answers begin at the same column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from shared.spec import TrainSpec
from trainer_worker.child.batch import Item


# b: answers, p: tokens of the longest prompt, n: of the longest answer, t: p + n
@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Makes a batch of samples' prompts."""

    pad_id: int

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), longest), self.pad_id)
        mask = torch.zeros((len(items), longest), dtype=torch.long)
        for row, item in enumerate(items):
            start = longest - len(item["input_ids"])
            ids[row, start:] = torch.from_numpy(item["input_ids"].astype(np.int64))
            mask[row, start:] = 1
        return {"input_ids": ids, "attention_mask": mask}  # b p, b p


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    ids: torch.Tensor  # b t
    #: Which tokens are read: neither padding nor what was drawn after the end.
    attention: torch.Tensor  # b t
    num_prompt: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> torch.Tensor:
        """Which tokens belong to the answers, their end included: b n."""
        return self.attention[:, self.num_prompt :].bool()

    @property
    def answers(self) -> torch.Tensor:
        return self.ids[:, self.num_prompt :]  # b n

    def rows(self, chosen: torch.Tensor | slice) -> Rollouts:
        return Rollouts(ids=self.ids[chosen], attention=self.attention[chosen], num_prompt=self.num_prompt)


def settings(spec: TrainSpec, end_ids: Iterable[int], pad_id: int) -> GenerationConfig:
    """Everything is said: what is left out would come from the model's own file."""
    drawing = spec.drawing
    return GenerationConfig(
        do_sample=True,
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        top_k=max(drawing.top_k, 0),
        min_p=0.0,
        repetition_penalty=drawing.repetition_penalty,
        max_new_tokens=drawing.max_new_tokens,
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,
        eos_token_id=sorted(set(end_ids)),
        pad_token_id=pad_id,
    )


def draw(model: Any, prompts: dict[str, torch.Tensor], config: GenerationConfig, num_at_once: int) -> Rollouts:
    """An answer to each prompt, from a model that is not training just now."""
    parts = zip(*(prompts[name].split(num_at_once) for name in ("input_ids", "attention_mask")), strict=True)
    drawn = [model.generate(input_ids=ids, attention_mask=mask, generation_config=config) for ids, mask in parts]
    longest = max(ids.shape[1] for ids in drawn)
    padding = int(config.pad_token_id)
    filled = [torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=padding) for ids in drawn]
    ids, num_prompt = torch.cat(filled), prompts["input_ids"].shape[1]
    answers = until_end(ids[:, num_prompt:], config.eos_token_id)
    return Rollouts(ids=ids, attention=torch.cat([prompts["attention_mask"], answers], dim=1), num_prompt=num_prompt)


def until_end(answers: torch.Tensor, end_ids: Sequence[int]) -> torch.Tensor:  # b n -> b n
    """1 up to the first token that ends the answer, also where that token is the padding, too."""
    is_end = torch.isin(answers, torch.tensor(end_ids, device=answers.device)).long()
    return ((is_end.cumsum(dim=1) - is_end) == 0).long()


def positions(attention: torch.Tensor) -> torch.Tensor:  # b t -> b t
    return (attention.cumsum(dim=1) - 1).clamp(min=0)


# v: words, h: width of the model
def look(model: Any, rollouts: Rollouts, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each answer's token (b n), and what the model makes of all before it (b n h)."""
    before = slice(rollouts.num_prompt - 1, rollouts.ids.shape[1] - 1)
    output = model(
        input_ids=rollouts.ids,
        attention_mask=rollouts.attention,
        position_ids=positions(rollouts.attention),
        logits_to_keep=torch.arange(before.start, before.stop, device=rollouts.ids.device),
        output_hidden_states=True,
        use_cache=False,
    )
    logits = output.logits.float() / temperature  # b n v
    chosen = logits.gather(2, rollouts.answers[..., None])[..., 0]
    return chosen - logits.logsumexp(dim=2), output.hidden_states[-1][:, before]
