"""docs/benchmarks.md from what was measured."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from shared import gpus
from tests.bench.settings import settings
from tests.bench.sides import Measured

INTRO = """# Benchmarks

Made by `make bench` (`ARGS="--steps 9 --rounds 3"` makes it longer, `--only packed` shorter); this page is what its
last run wrote. Three trainers get the same YAML in LLaMA Factory's words, the same rows and the same weights, one after
another in one run, every second round backwards: {steps} steps of LoRA (rank 8 on every linear layer) of
SmolLM2-135M-Instruct, `cutoff_len` 512.

- **tokens/s** counts real tokens from the end of the first step to that of the last; padding is no token, for nobody.
- **CPU ms per token** is the CPU time of all processes of a training for the same tokens. On a machine that others use,
  too, it says more than the clock does.
- **First step** is from the request (a job of a running platform), or from the command, to the end of the first step.
- **Peak RSS** is that of the largest process.

LLaMA Factory and TRL run with what is theirs by default, recomputed activations among it; Tunesmith recomputes where
the memory needs it. The median of the rounds is shown, then every round.
"""


COLUMNS = (
    "Trainer", "tokens/s", "CPU ms per token", "first step, s", "CPU s to first step", "peak RSS, GB", "last loss",
)  # fmt: skip


def text(found: dict[str, list[Measured]], *, steps: int, on_gpu: str | None, python: Path) -> str:
    parts = [INTRO.format(steps=steps), "\n".join(machine(python))]
    titles = {setting.name: setting.title for setting in settings()}
    parts += [f"## {titles[name].capitalize()}\n\n" + "\n".join(table(made)) for name, made in found.items()]
    why = "" if gpus.query("name") else ": this machine has no GPU"
    parts.append(f"## On a GPU\n\n{on_gpu or NOT_ASKED.format(why=why)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


NOT_ASKED = (
    "Not run{why}. `make bench ARGS=--gpu` trains a model of random weights in the shape of Llama 3.1 8B, bfloat16,\n"
    "LoRA and full, samples of 4,096 tokens, and tells tokens/s, MFU and the memory against the plan's estimate."
)


def machine(python: Path) -> Iterator[str]:
    yield f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {psutil.getloadavg()[0]:.1f} at the end"
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    yield f"- Machine: {processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {system}"
    yield f"- Tunesmith {metadata.version('tunesmith')}, TRL: {versions(Path('.venvs/trainer/bin/python'))}"
    yield f"- LLaMA Factory: {versions(python)}"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions(python: Path) -> str:
    """Of what matters in an interpreter."""
    names = ("llamafactory", "trl", "torch", "transformers", "peft", "accelerate")
    code = (
        "from importlib.metadata import distributions as d; import sys;"
        "v={x.metadata['Name'].lower(): x.version for x in d()};"
        "print(', '.join(f'{n} {v[n]}' for n in sys.argv[1:] if n in v))"
    )
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(made: list[Measured]) -> Iterator[str]:
    return by_side(made, COLUMNS, row, ratios)


def by_side(
    made: list[Any],
    columns: Sequence[str],
    row: Callable[[str, list[Any]], str],
    ratios: Callable[[str, str, list[Any], list[Any]], str],
) -> Iterator[str]:
    """The medians of each side, the first one's against the others', then every round."""
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    sides = {one.side: [other for other in made if other.side == one.side] for one in made}
    for side, rounds in sides.items():
        yield row(f"**{side}**", rounds)
    first = next(iter(sides))
    for side, rounds in list(sides.items())[1:]:
        yield ratios(first, side, sides[first], rounds)
    for number in range(max(map(len, sides.values()))):
        for side, rounds in sides.items():
            if number < len(rounds):
                yield row(f"{side}, round {number + 1}", [rounds[number]])


def row(name: str, rounds: list[Measured]) -> str:
    cells = (
        f"{middle(rounds, 'tokens_per_second'):.0f}",
        f"{middle(rounds, 'cpu_ms_per_token'):.2f}",
        f"{middle(rounds, 'first_step_seconds'):.1f}",
        f"{middle(rounds, 'first_step_cpu_seconds'):.1f}",
        f"{middle(rounds, 'peak_rss_bytes') / 1e9:.2f}",
        f"{statistics.median(one.losses[-1] for one in rounds):.3f}",
    )
    return f"| {name} | {' | '.join(cells)} |"


def ratios(first: str, other: str, ours: list[Measured], theirs: list[Measured]) -> str:
    def share(name: str) -> float:
        return middle(ours, name) / middle(theirs, name)

    cells = [f"{share('tokens_per_second'):.2f}x"]
    names = ("cpu_ms_per_token", "first_step_seconds", "first_step_cpu_seconds", "peak_rss_bytes")
    cells += [f"{share(name):.2f}x" for name in names]
    return f"| **{first} against {other}** | {' | '.join(cells)} | |"


def middle(rounds: list[Any], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in rounds))
