"""Tasks that one call of `generate` answers: beams, and models whose cache cannot be padded (recurrent ones).

One after another in a thread of its own, beside the batch of scheduler.py. Tokens are drawn by the same function, so
a model answers the same way in both.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import GenerationConfig

from inference_worker.child.transformers_server.adapters import Adapters
from inference_worker.child.transformers_server.model import Served
from inference_worker.child.transformers_server.sampling import draw
from inference_worker.child.transformers_server.scheduler import Counts
from inference_worker.child.transformers_server.sequence import Answer, Piece, Task

log = logging.getLogger(__name__)


class Whole:
    def __init__(self, served: Served, adapters: Adapters):
        self._served = served
        self._adapters = adapters
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._submitted: list[Task] = []
        self._running: Task | None = None
        self.counts = Counts()

    def submit(self, task: Task) -> None:
        self._submitted.append(task)
        self._pool.submit(self._run, task)

    @property
    def num_running(self) -> int:
        running = self._running
        return len(running.answers) if running else 0

    @property
    def num_waiting(self) -> int:
        return sum(len(task.answers) for task in list(self._submitted)) - self.num_running

    def _run(self, task: Task) -> None:
        try:
            if not task.cancelled:
                self._running = task
                self._generate(task)
        except Exception as error:  # the edge of a task: its client is told
            log.exception("A task failed")
            task.sink(error)
        finally:
            self._running = None
            self._submitted.remove(task)

    @torch.inference_mode()
    def _generate(self, task: Task) -> None:
        self.counts.prompt_tokens += len(task.prompt_ids)
        with self._adapters.rows([task.adapter] * max(task.num_beams, len(task.answers))):
            if task.num_beams > 1:
                self._search(task)
            else:
                self._draw(task)
        self.counts.generated_tokens += sum(len(answer.ids) for answer in task.answers)

    def _draw(self, task: Task) -> None:
        watched = Drawing(task)
        config = GenerationConfig(max_new_tokens=self._longest(task), do_sample=False, pad_token_id=0)
        self._served.model.generate(
            **self._inputs(task, len(task.answers)),
            generation_config=config,
            logits_processor=[watched.choose],
            stopping_criteria=[watched.is_over],
        )

    def _search(self, task: Task) -> None:
        """Beam search is transformers' own; its answers come when it is over."""
        sampling = task.answers[0].sampling
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            min_new_tokens=sampling.min_tokens or None,
            do_sample=False,
            num_beams=task.num_beams,
            num_return_sequences=len(task.answers),
            length_penalty=task.length_penalty,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=sorted(sampling.eos_token_ids | sampling.stop_token_ids) or None,
            pad_token_id=0,
            stop_strings=list(sampling.stop) or None,
        )
        found = self._served.model.generate(
            **self._inputs(task, 1),
            generation_config=config,
            tokenizer=self._served.tokenizer,
            stopping_criteria=[lambda ids, _: torch.full((len(ids),), task.cancelled, device=ids.device)],
        )
        for answer, ids in zip(task.answers, found[:, len(task.prompt_ids) :].tolist(), strict=True):
            _finish(answer, ids)

    def _longest(self, task: Task) -> int:
        return max(answer.sampling.max_tokens for answer in task.answers)

    def _inputs(self, task: Task, num_rows: int) -> dict[str, torch.Tensor]:
        ids = torch.tensor([task.prompt_ids] * num_rows, device=self._served.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Drawing:
    """Draws the tokens of a task's answers within `generate`, which is left nothing to choose.
    Shapes: B answers, L tokens so far, V vocabulary."""

    def __init__(self, task: Task):
        self._task = task

    def choose(self, token_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """All but the drawn token become impossible. token_ids: [B, L], scores: [B, V]"""
        only = torch.full_like(scores, -math.inf)
        for row, answer in enumerate(self._task.answers):
            token_id = 0
            if not answer.is_finished:
                drawn = draw(answer, scores[row].float())
                token_id = drawn.token_id
                answer.accept(drawn)
            only[row, token_id] = 0.0
        return only

    def is_over(self, token_ids: torch.Tensor, _: Any) -> torch.Tensor:
        """For each row, [B]."""
        over = [self._task.cancelled or answer.is_finished for answer in self._task.answers]
        return torch.tensor(over, device=token_ids.device)


def _finish(answer: Answer, ids: list[int]) -> None:
    """Tell an answer that was found as a whole."""
    sampling = answer.sampling
    ends = sampling.eos_token_ids | sampling.stop_token_ids
    length = next((n for n, token_id in enumerate(ids) if token_id in ends), None)
    answer.ids = ids[: len(ids) if length is None else length + 1]
    text = "".join(answer.decoder.push(token_id) for token_id in ids[:length]) + answer.decoder.flush()
    starts = [start for stop in sampling.stop if (start := text.find(stop)) >= 0]
    stopped = bool(starts) or length is not None
    answer.finish_reason = "stop" if stopped else "length"
    text = text[: min(starts)] if starts else text
    answer.sink(Piece(index=answer.index, text=text, token_ids=tuple(answer.ids), finish_reason=answer.finish_reason))
