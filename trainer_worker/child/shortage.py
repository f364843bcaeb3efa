"""What a rank can tell of its memory: before, in case it is killed for want of it, and after it did not suffice."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from shared.advice import footprint, shapes
from shared.advice.memory import GIB, estimate
from trainer_worker.child import memory
from trainer_worker.child.context import Context
from trainer_worker.child.datasets import Parts

UNITS = {"GiB": 1.0, "MiB": 1 / 1024, "KiB": 1 / 1024**2, "bytes": 1 / GIB}
#: "Tried to allocate 20.00 MiB" of torch on CUDA, "you tried to allocate 1024 bytes" on a CPU.
ASKED = re.compile(r"tried to allocate ([\d.]+) (GiB|MiB|KiB|bytes)", re.IGNORECASE)


def known(
    context: Context, config: PretrainedConfig, parts: Parts, *, recomputes: bool, has_bf16: bool
) -> dict[str, Any]:
    """Of one process: its micro-batch, the longest sequence, the estimate by part, and what it can use."""
    raw, rows = config.to_dict(), context.spec.train.per_device_train_batch_size
    longest = int(parts.train.lengths.max())
    told = {
        "device": str(context.device),
        "num_processes": context.num_processes,
        "micro_batch": rows,
        "longest": longest,
        "gradient_checkpointing": recomputes,
        "free_gib": _gib(memory.free_bytes(context.device)),
        "total_gib": _gib(total_bytes(context.device)),
        "config": raw,
    }
    try:
        shape = shapes.read(raw)
        made = footprint.training(context.spec, shape, num_devices=context.num_processes, has_bf16=has_bf16)
    except shapes.UnreadableShape:
        return told
    length = -(-parts.most_tokens // rows)
    return told | {"estimate_gib": estimate(replace(made, length=length, checkpointing=recomputes)).gib()}


def numbers(error: Exception) -> dict[str, Any]:
    """Of the process in which memory did not suffice."""
    asked = ASKED.search(str(error))
    notes = getattr(error, "__notes__", [])
    return {
        **({"at": notes[0]} if notes else {"at": "training"}),
        **({"asked_gib": round(float(asked[1]) * UNITS[asked[2]], 3)} if asked else {}),
        **(_of_card() if torch.cuda.is_available() else {}),
        "host_used_gib": _gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        "host_free_gib": _gib(memory.free_bytes(torch.device("cpu"))),
    }


def _of_card() -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated_gib": _gib(torch.cuda.memory_allocated()),
        "reserved_gib": _gib(torch.cuda.memory_reserved()),
        "peak_gib": _gib(torch.cuda.max_memory_allocated()),
        "free_gib": _gib(free),
        "total_gib": _gib(total),
    }


def total_bytes(device: torch.device) -> int:
    """Of a card; on a CPU what one process may take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    lines = Path("/proc/meminfo").read_text().splitlines()
    whole = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    return whole if limit == resource.RLIM_INFINITY else min(whole, limit)


def _gib(count: float) -> float:
    return round(count / GIB, 3)
