"""Names under which results appear. They are labels only: a client never chooses where the server writes."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Output:
    output_dir: str | None = param(
        None, "Label of the run, kept with the job; no path of the server.", type=str, kind="output", source="HF"
    )
    overwrite_output_dir: bool = param(False, "LF's switch; every attempt writes to a new folder.")
    run_name: str | None = param(None, "Name of the run in trackers.", type=str, kind="output", source="HF")
    report_to: list[str] = param(["none"], "Trackers that get the metrics besides the platform.", source="HF")

    @rule("report_to", code="unsupported")
    def no_trackers_yet(self) -> str | None:
        given = set(self.report_to) - {"none"}
        named = ", ".join(sorted(given))
        text = "names {named}: not supported yet; the platform records every metric itself"
        return Text(text, named=named) if given else None
