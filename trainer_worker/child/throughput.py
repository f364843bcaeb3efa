"""What a training gets done in a second, and the memory that it takes, over all processes.

Tokens are real ones: padding is counted apart, as `padding_share`. Time spent on validation and checkpoints is no
training. Numbers of all processes come together in one sum, at each time that something is told.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from trainer_worker.child.flops import Cost

Sum = Callable[[list[float]], list[float]]
#: What is told of an interval or of a whole training; see `Done.rates`.
RATES = ("tokens_per_second", "samples_per_second", "step_seconds", "padding_share", "mfu")
PEAKS = ("peak_memory_bytes", "host_memory_bytes")


@dataclass(kw_only=True)
class Done:
    """What was done in an interval."""

    tokens: float = 0.0
    #: Tokens and padding.
    positions: float = 0.0
    samples: float = 0.0
    operations: float = 0.0
    #: What all devices together could have done.
    possible: float = 0.0
    seconds: float = 0.0
    steps: float = 0.0

    def __iadd__(self, other: Done) -> Done:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def rates(self) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        found = {"tokens_per_second": self.tokens / seconds, "samples_per_second": self.samples / seconds}
        if self.steps:
            found["step_seconds"] = self.seconds / self.steps
        if self.positions:
            found["padding_share"] = 1 - self.tokens / self.positions
        if self.operations and self.possible:
            found["mfu"] = self.operations / self.possible
        return found


class Throughput:
    def __init__(self, device: torch.device, rank: int, num_processes: int):
        self._device, self._rank, self._num_processes = device, rank, num_processes
        #: Of a step; None where what is computed is not known.
        self.cost: Cost | None = None
        #: Operations per second that this process' device can do.
        self.peak = 0.0
        #: Since the last time that something was told, of this process.
        self._here, self._began, self._away, self._first_step = Done(), 0.0, 0.0, 0
        #: In this attempt, of all processes.
        self.total = Done()
        #: By rank: what a device has held at most, and what its process has on the host.
        self.memory: list[dict[str, int]] = []

    def begin(self, step: int) -> None:
        """Something is worked on from now on, unless it is already."""
        if not self._began:
            self._began, self._away, self._first_step = time.monotonic(), 0.0, step

    def add(self, batch: Mapping[str, Any]) -> None:
        self._here.tokens += batch["num_tokens"]
        self._here.positions += batch["num_positions"]
        self._here.samples += len(batch["lengths"])
        self._here.operations += self.cost.of(batch) if self.cost is not None else 0.0

    def add_answers(self, tokens: int, samples: int) -> None:
        """Of work that is more than a pass forward and back."""
        self._here.tokens += tokens
        self._here.samples += samples

    @contextmanager
    def away(self) -> Iterator[None]:
        """Time that is no training."""
        began = time.monotonic()
        yield
        self._away += time.monotonic() - began if self._began else 0.0

    def take(self, step: int, add_up: Sum) -> Done:
        """All that was done since the last time, by all processes; a new interval begins with the next batch."""
        here, seconds = self._here, max(time.monotonic() - self._began - self._away, 1e-9)
        counts = [here.tokens, here.positions, here.samples, here.operations, self.peak * seconds]
        counts, memory = self._gathered(counts, add_up)
        self.memory = [dict(zip(PEAKS, pair, strict=True)) for pair in memory]
        names = ("tokens", "positions", "samples", "operations", "possible")
        done = Done(**dict(zip(names, counts, strict=True)), seconds=seconds, steps=step - self._first_step)
        self._here, self._began = Done(), 0.0
        self.total += done
        return done

    def peaks(self) -> dict[str, int]:
        """Of the process that has the most."""
        return {name: max(told[name] for told in self.memory) for name in PEAKS} if self.memory else {}

    def _gathered(self, counts: list[float], add_up: Sum) -> tuple[list[float], list[tuple[int, int]]]:
        """Counts are summed; of its memory each process writes in places of its own."""
        places = [0.0] * (2 * self._num_processes)
        places[2 * self._rank : 2 * self._rank + 2] = memory(self._device)
        summed = add_up(counts + places)
        told = [int(number) for number in summed[len(counts) :]]
        return summed[: len(counts)], list(zip(told[::2], told[1::2], strict=True))


def memory(device: torch.device) -> list[float]:
    """Bytes at most: of the device what was allocated, of the host what was resident. On a CPU they are the same."""
    host = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return [float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else host, host]
