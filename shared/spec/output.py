"""Names under which results appear. They are labels only: a client never chooses where the server writes."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param


@dataclass(frozen=True, kw_only=True)
class Output:
    output_dir: str | None = param(
        None, "Label of the run, kept with the job; no path of the server.", type=str, kind="output", source="HF"
    )
    overwrite_output_dir: bool = param(False, "LF's switch; every attempt writes to a new folder.")
    run_name: str | None = param(None, "Name of the run in trackers.", type=str, kind="output", source="HF")
