"""How the command line shows things: tables of records, refusals with their field and advice, JSON for scripts."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.settings import reads_chinese
from shared.tongues import Text, chinese

COLORS = {
    "succeeded": "green",
    "ready": "green",
    "running": "cyan",
    "starting": "cyan",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
}


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the server's JSON")


def as_json(console: Console, value: Any) -> None:
    console.out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    if not rows:
        console.print(empty)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else status(cell) if cell in COLORS else escape(str(cell)) for cell in row))
    console.print(grid)


def status(name: str) -> str:
    return f"[{COLORS[name]}]{name}[/]" if name in COLORS else escape(name)


def told(record: Mapping[str, Any], part: str = "message") -> str:
    """A part of a complaint or finding in the tongue of the user's locale, as far as the server gave it in Chinese."""
    found = record.get(f"{part}_zh") or (record.get("zh") or {}).get(part)
    return str(found if found and reads_chinese() else record.get(part) or "")


def said(text: str) -> str:
    """A sentence of the command line itself in the tongue of the user's locale."""
    return (chinese.sentence(text) if reads_chinese() else None) or text


def refusal(
    console: Console, message: str, issues: Sequence[dict[str, Any]], *, field: str | None = None, advice: str = ""
) -> None:
    """What was refused and why: the message, then every complaint under its field or line."""
    if issues and all(issue["message"] in message for issue in issues):
        message = said("the request was refused")  # its message is all complaints in one line, and they follow
    place = f" [dim]({escape(field)})[/]" if field and field not in message and not issues else ""
    console.print(f"[red]{said('error:')}[/] {escape(said(message))}{place}", soft_wrap=True)
    for issue in issues:
        line = said(Text("line {line}: ", line=issue["line"])) if issue.get("line") else ""
        console.print(f"  {line}[bold]{escape(issue.get('field', ''))}[/] {escape(told(issue))}", soft_wrap=True)
    if advice:
        console.print(f"  {escape(said(advice))}", soft_wrap=True)


def size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return ""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def moment(value: str | int | None) -> str:
    """Local time of what the API gives: RFC 3339 text, or unix seconds on OpenAI's objects."""
    if value is None:
        return ""
    when = datetime.fromtimestamp(value, UTC) if isinstance(value, int) else datetime.fromisoformat(value)
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def place(job: dict[str, Any]) -> str:
    """Where a queued job stands and when it is likely to start; empty for others."""
    queue = job.get("queue")
    if not queue:
        return ""
    start = f", starts about {moment(queue['estimated_start'])[11:16]}" if queue["estimated_start"] else ""
    return f"#{queue['position']} in the queue{start}"


def progress(job: dict[str, Any]) -> str:
    """`step/total  loss` of a job, as far as it has them; of one that goes through phases the phase, and of that."""
    values = job.get("progress") or {}
    done, total = values.get("step", values.get("done")), values.get("total_steps", values.get("total"))
    of_phase = values.get("phase")
    if of_phase is not None and job.get("phase") != of_phase:
        return str(job.get("phase") or "")
    unit = values.get("unit") if of_phase else None  # of trainings, which have none, everybody knows
    steps = count(done, total, unit) if done is not None and total else ""
    loss = f"loss {values['loss']:.4f}" if isinstance(values.get("loss"), float) else ""
    return "  ".join(part for part in (of_phase or "", steps, loss) if part)


def count(done: float, total: float, unit: str | None) -> str:
    if unit == "bytes":
        return f"{size(int(done))} of {size(int(total))}"
    return f"{done:.0f}/{total:.0f}" + (f" {unit}" if unit else "")


def measured(metrics: dict[str, Any]) -> str:
    """`name value +-error` of each number that was measured; of counts nothing."""
    errors = {name.removesuffix("_stderr"): value for name, value in metrics.items() if name.endswith("_stderr")}
    told = (name for name in metrics if not name.endswith("_stderr") and not name.startswith(("num_", "predict_")))
    return ", ".join(
        f"{name} {metrics[name]:.4g}" + (f" +-{errors[name]:.2g}" if name in errors else "")
        for name in told
        if isinstance(metrics[name], int | float)
    )
