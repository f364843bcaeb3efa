"""docs/formats.md from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from gateway.demo import base
from shared import formats, serving
from tests.bench.page import processor

if TYPE_CHECKING:
    from tests.bench.formats import Measured

MIB = 1024**2
INTRO = """# Export formats

Made by `make formats` (`ARGS="--only w8a8"` takes one); this page is what its last run wrote.
{model} was exported in every format through the API, deployed and asked.

- **Served on** is where vLLM answers from such files, as the format's declaration says; a deployment elsewhere is
  refused.
- **MiB** is all that the export published; **s** what its job took, in brackets the quantization alone.
- **Perplexity** is that of the held-out rows as the export's verification measured it, against the merged model's.
- **tok/s** are those of 1 and of 8 answers of {tokens} tokens given at once, over HTTP through the gateway.
- **Kernel** is what vLLM's log names.
"""
COLUMNS = (
    "Format", "served on", "MiB", "s", "perplexity", "ready, s", "tok/s, 1", "tok/s, 8", "kernel"
)  # fmt: skip


def text(found: Sequence[Measured], num_tokens: int) -> str:
    memory = psutil.virtual_memory().total / 2**30
    load = psutil.getloadavg()[0]
    machine = [
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {load:.1f} at the end",
        f"- Machine: {processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB",
        f"- Tunesmith {metadata.version('tunesmith')}",
    ]
    head = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    refused = [f"- `{one.asked.name}`: {one.refused}" for one in found if one.refused]
    parts = [INTRO.format(model=base.NAME, tokens=num_tokens).strip(), "\n".join(machine)]
    parts.append("\n".join([*head, *(f"| {' | '.join(row(one))} |" for one in found)]))
    if refused:
        parts.append("Not deployed here:\n\n" + "\n".join(refused))
    return "\n\n".join(parts) + "\n"


def row(one: Measured) -> list[str]:
    served, seconds = formats.get(one.asked.format).where(one.asked.bits), one.result["seconds"]
    took = f"{sum(seconds.values()):.0f}"
    if "quantize" in seconds:
        took += f" ({seconds['quantize']:.0f})"
    speeds = [f"{speed:.1f}" for speed in (one.speeds or {}).values()] or ["", ""]
    ready = "" if one.ready_seconds is None else f"{one.ready_seconds:.0f}"
    size = f"{one.result['size_bytes'] / MIB:.1f}"
    return [f"`{one.asked.name}`", serving.where(served), size, took, perplexity(one), ready, *speeds, one.kernel]


def perplexity(one: Measured) -> str:
    checks: dict[str, Any] = one.result["verification"]
    if (quantized := checks.get("quantized")) is None:
        return f"{math.exp(checks['merge']['loss']):.3f}"
    before, after = math.exp(quantized["loss_reference"]), math.exp(quantized["loss"])
    return f"{after:.3f} ({after / before - 1:+.1%})"
