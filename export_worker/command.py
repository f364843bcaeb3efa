"""An export as a child process: its arguments, its environment, and what the output is called. Pure functions."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from shared.settings import Settings

#: Formats for which AutoRound reads a block of the model when it comes to it, and keeps none. Not awq: when all is
#: written, AutoRound 0.15.1 wants to move the model that has no weights any more ("Cannot copy out of meta tensor").
STREAMED = ("gptq",)


def argv(python: str, folder: str) -> list[str]:
    return [python, "-m", "export_worker.child", folder]


def served_argv(python: str, folder: str) -> list[str]:
    """The phase that asks vLLM; `python` is the interpreter that has it."""
    return [python, "-m", "export_worker.child.served", folder]


def environment(settings: Settings, format_name: str) -> dict[str, str]:
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # OpenMP's threads spin while they wait for each other. With a replica on the same two cores a comparison took 95 s
    # spinning and 5 s sleeping; alone on the machine 0.8 s and 1.2 s an answer.
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    if format_name in STREAMED:
        env["AR_DISK_STREAM_MODEL"] = "1"
    return env if settings.hub else env | {"HF_HUB_OFFLINE": "1"}


def model_name(source_name: str, format_name: str, label: str | None) -> str:
    """What the catalog calls the output: the label that was asked for, else the source's name and the format.

    LF's `export_dir` is a path; here it is a label only, and its last part names the model (`models/llama3_sft` ->
    `llama3_sft`), because a client never chooses where the server writes.
    """
    base = PurePosixPath(label.replace("\\", "/")).name if label else ""
    return re.sub(r"[^\w.:@+-]+", "-", base).strip("-.") or f"{source_name}:{format_name}"
