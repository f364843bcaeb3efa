"""What a model says about rows: logits and loss of the tokens that are scored, and its greedy answers.

`read_model` is for models that transformers runs. A format that another library loads brings its own reading
(quantizers/X.py) and fills the same `Reading`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from export_worker.child.answers import NUM_RIVALS, Answer
from export_worker.child.asked import Sample
from export_worker.child.source import Source
from export_worker.child.watch import Watch

#: Memory for the logits that are kept to be compared, bytes; the loss counts all rows.
LOGIT_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What every model of an export is asked."""

    samples: Sequence[Sample]
    #: Of the samples, how many are answered greedily, and with how many tokens at most.
    num_answers: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one model says about the rows."""

    #: Per row (scored tokens, vocabulary), float32; of later rows nothing where memory ends, none at all where who read
    #: it cannot tell.
    logits: list[torch.Tensor] = field(default_factory=list)
    #: Of each row, summed over its scored tokens, nats. Who computes dearly reads the first rows only.
    row_losses: list[float]
    #: Scored tokens of each of these rows.
    row_tokens: list[int]
    answers: list[Answer]

    @property
    def loss(self) -> float:
        """Mean over all scored tokens, nats."""
        return sum(self.row_losses) / self.num_tokens

    @property
    def num_tokens(self) -> int:
        return sum(self.row_tokens)

    def beside(self, other: Reading) -> Reading:
        """This reading of no more rows than the other has."""
        count = len(other.row_losses)
        return replace(self, row_losses=self.row_losses[:count], row_tokens=self.row_tokens[:count])

    def first(self, count: int) -> Reading:
        """Loss and answers of the first rows."""
        return replace(
            self,
            row_losses=self.row_losses[:count],
            row_tokens=self.row_tokens[:count],
            answers=self.answers[:count],
        )


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """Written files that are to be read as whoever serves them reads them."""

    #: How models of this export are loaded.
    source: Source
    folder: Path
    dtype: torch.dtype | str
    tokenizer: PreTrainedTokenizerBase
    questions: Questions
    watch: Watch


def read_folder(back: ReadBack) -> Reading:
    """By transformers, which takes from the folder also where an answer ends."""
    return read_model(back.source.load(back.folder, back.dtype), back.tokenizer, back.questions, back.watch)


def read_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    watch: Watch,
    ends: Sequence[int] = (),
) -> Reading:
    """`ends`: tokens that end an answer, instead of those that the model's files name."""
    logits, losses = score(model, questions.samples, watch)
    tokens = [len(sample.input_ids) - sample.score_from for sample in questions.samples]
    answers = []
    for sample in questions.samples[: questions.num_answers]:
        watch.check()
        answers.append(answer(model, tokenizer, sample, questions.answer_tokens, ends))
    return Reading(logits=logits, row_losses=losses, row_tokens=tokens, answers=answers)


@torch.inference_mode()
def score(
    model: PreTrainedModel | PeftModel, samples: Sequence[Sample], watch: Watch
) -> tuple[list[torch.Tensor], list[float]]:
    """Logits as far as they are kept, and the losses of all rows, summed over their tokens."""
    kept: list[torch.Tensor] = []
    losses: list[float] = []
    room = LOGIT_BYTES
    for number, sample in enumerate(samples, start=1):
        watch.progress(number, len(samples), "rows")
        ids = torch.tensor([sample.input_ids], device=model.device)  # (1, tokens)
        logits = model(input_ids=ids).logits[0]  # (tokens, vocabulary)
        scored = logits[sample.score_from - 1 : -1].float().cpu()
        targets = torch.tensor(sample.input_ids[sample.score_from :])
        losses.append(torch.nn.functional.cross_entropy(scored, targets, reduction="sum").item())
        room -= scored.numel() * scored.element_size()
        if room >= 0 or not kept:
            kept.append(scored)
    return kept, losses


@torch.inference_mode()
def answer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    max_tokens: int,
    ends: Sequence[int] = (),
) -> Answer:
    prompt = torch.tensor([sample.input_ids[: sample.answer_from]], device=model.device)
    own = model.generation_config.eos_token_id
    stops = list(ends) or ([own] if isinstance(own, int) else list(own or ()))
    generated = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=stops or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = generated.sequences[0, prompt.shape[1] :].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    rivals = [likeliest(step[0]) for step in generated.logits]
    return Answer(ids=ids, text=str(text), ended=bool(ids) and ids[-1] in stops, rivals=rivals)


def likeliest(logits: torch.Tensor) -> dict[int, float]:
    """The likeliest tokens, each with how far it is below the first, nats."""
    found = logits.float().topk(min(NUM_RIVALS, logits.numel()))  # (vocabulary,)
    gaps = (found.values[0] - found.values).tolist()
    return dict(zip(found.indices.tolist(), gaps, strict=True))


def read_effect(
    model: PreTrainedModel | PeftModel, reading: Reading, questions: Questions, watch: Watch
) -> float | None:
    """How far the adapter moves the logits from the base's, relative to their size; None without an adapter."""
    if not isinstance(model, PeftModel):
        return None
    with model.disable_adapter():
        return relative(reading.logits, score(model, questions.samples, watch)[0])


def relative(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Norm of the difference over the norm of the reference, both free of the per-token constant softmax ignores."""
    difference = size = 0.0
    for a, b in zip(reference, other, strict=True):  # row by row: all of them at once would be held four times
        difference += (centred(a) - centred(b)).square().sum(dtype=torch.float64).item()
        size += centred(a).square().sum(dtype=torch.float64).item()
    # Of a model that says nothing at all: no comparison with it is true.
    return math.sqrt(difference / size) if size else math.nan


def centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)
