"""The thread that computes: answers join and leave one batch between steps, so that nobody waits for another's end.

A step is one token for every running answer, and a part of the prompt of the next task that waits, so that a long
prompt holds up no stream for long. A task begins when its answers have room: their number, and the memory that their
caches will have at their longest, is bounded. Nothing that began is thrown out again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from inference_worker.child.transformers_server.adapters import Adapters, gone
from inference_worker.child.transformers_server.batch import Batch
from inference_worker.child.transformers_server.sampling import draw
from inference_worker.child.transformers_server.sequence import Answer, Task

log = logging.getLogger(__name__)

#: Steps that fail one after another before the process gives up: its replica is started again.
MAX_FAILURES = 3


@dataclass
class Counts:
    """Since the start, tokens."""

    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_num_seqs: int
    #: Of all caches together; 0: any size.
    cache_bytes: int
    #: Of one position of one answer; 0: not known.
    bytes_per_token: int
    #: Tokens of a prompt that are computed between two steps.
    chunk_tokens: int


@dataclass(frozen=True)
class Running:
    """One row of the batch."""

    task: Task
    answer: Answer


class Scheduler:
    def __init__(self, model: Any, device: torch.device, adapters: Adapters, limits: Limits):
        self._model = model
        self._device = device
        self._adapters = adapters
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._rows: list[Running] = []
        self._batch: Batch | None = None
        #: The task whose prompt is being computed, and how much of it is.
        self._beginning: tuple[Task, Batch, int] | None = None
        self._stopping = False
        self._num_failures = 0
        self.counts = Counts()
        adapters.in_use = self._adapters_in_use

    def submit(self, task: Task) -> None:
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()

    @property
    def num_running(self) -> int:
        beginning = self._beginning
        return len(self._rows) + (len(beginning[0].answers) if beginning else 0)

    @property
    def num_waiting(self) -> int:
        return sum(len(task.answers) for task in list(self._waiting))

    def _adapters_in_use(self) -> set[str]:
        """Asked by other threads: in the order in which tasks move, so that none is missed."""
        tasks = list(self._waiting)
        if (beginning := self._beginning) is not None:
            tasks.append(beginning[0])
        tasks += [row.task for row in self._rows]
        return {task.adapter for task in tasks if task.adapter is not None}

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @torch.inference_mode()
    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            try:
                self._step()
                self._num_failures = 0
            except Exception as error:  # the edge of a step: whoever was in it is told, others go on
                self._fail(error)

    def _step(self) -> None:
        with self._changed:
            while not (self._waiting or self._rows or self._beginning or self._stopping):
                self._changed.wait()
        self._leave()
        self._admit()
        if self._beginning is not None:
            self._read(*self._beginning)
        if self._rows:
            self._advance()

    def _leave(self) -> None:
        """Rows that are finished, or for which nobody waits any more, make room."""
        if self._beginning is not None and self._beginning[0].cancelled:
            self._beginning = None
        kept = [n for n, row in enumerate(self._rows) if not row.task.cancelled and not row.answer.is_finished]
        if len(kept) == len(self._rows):
            return
        self._rows = [self._rows[n] for n in kept]
        if not kept:
            self._batch = None
        elif self._batch is not None:
            self._batch.keep(kept)
        self._adapters.drop_unused()

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and not self._is_wanted(self._waiting[0]):
                self._waiting.popleft()
            if self._beginning is not None or not self._waiting or not self._has_room(self._waiting[0]):
                return
            self._beginning = (self._waiting[0], Batch(self._model, self._device), 0)
            self._waiting.popleft()

    def _is_wanted(self, task: Task) -> bool:
        if not task.cancelled and not self._adapters.are_on(task.adapter):
            task.cancelled = True
            task.sink(gone(task.adapter))
        return not task.cancelled

    def _has_room(self, task: Task) -> bool:
        """An answer whose cache alone is too large begins when it is alone."""
        if not self._rows:
            return True
        num_rows = len(self._rows) + len(task.answers)
        longest = max(most_tokens(answer) for answer in [*task.answers, *(row.answer for row in self._rows)])
        num_bytes = num_rows * longest * self._limits.bytes_per_token
        return num_rows <= self._limits.max_num_seqs and (
            not self._limits.cache_bytes or num_bytes <= self._limits.cache_bytes
        )

    def _read(self, task: Task, batch: Batch, start: int) -> None:
        """Compute the next part of a prompt; after the last its answers have their first token and join the others."""
        part = task.prompt_ids[start : start + self._limits.chunk_tokens]
        with self._adapters.rows([task.adapter]):
            logits = batch.forward(torch.tensor([part], device=self._device))
        self.counts.prompt_tokens += len(part)
        if start + len(part) < len(task.prompt_ids):
            self._beginning = (task, batch, start + len(part))
            return
        for answer in task.answers:
            _extend(task, answer, logits[0])
        self.counts.generated_tokens += len(task.answers)
        self._join(task, batch)
        self._beginning = None

    def _join(self, task: Task, batch: Batch) -> None:
        unfinished = [answer for answer in task.answers if not answer.is_finished]
        if not unfinished or task.cancelled:
            return
        batch.repeat(len(unfinished))
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)
        self._rows += [Running(task, answer) for answer in unfinished]

    def _advance(self) -> None:
        """One token for every row."""
        assert self._batch is not None
        self._leave()
        if not self._rows:
            return
        last = torch.tensor([[row.answer.ids[-1]] for row in self._rows], device=self._device)
        with self._adapters.rows([row.task.adapter for row in self._rows]):
            logits = self._batch.forward(last)
        for row, scores in zip(self._rows, logits, strict=True):
            _extend(row.task, row.answer, scores)
        self.counts.generated_tokens += len(self._rows)

    def _fail(self, error: Exception) -> None:
        """Tell all who were being answered. Their caches may be half written: they begin again when asked again."""
        log.exception("A step failed", exc_info=error)
        tasks = {id(row.task): row.task for row in self._rows}
        if self._beginning is not None:
            tasks[id(self._beginning[0])] = self._beginning[0]
        self._rows, self._batch, self._beginning = [], None, None
        for task in tasks.values():
            task.sink(error)
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            log.critical("%d steps failed one after another: giving up", self._num_failures)
            os._exit(1)


def _extend(task: Task, answer: Answer, logits: torch.Tensor) -> None:
    """What one request asks for may be impossible (all tokens forbidden): others in the batch do not suffer for it."""
    try:
        answer.accept(draw(answer, logits))
    except Exception as error:  # the edge of one answer
        log.exception("No token could be drawn", exc_info=error)
        task.cancelled = True
        task.sink(error)


def most_tokens(answer: Answer) -> int:
    return len(answer.prompt_ids) + answer.sampling.max_tokens
