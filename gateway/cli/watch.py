"""Following one job on the terminal: a bar with step, loss and speed, and every other event as a line above it.

`Follower` is fed with events and draws; where they come from is client.follow. Without a terminal it prints lines only.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gateway.cli import show, verified
from gateway.cli.client import Client, follow

LEVELS = {"warning": "yellow", "warn": "yellow", "error": "red"}
#: Events that move the bar; without a terminal only every tenth of them is printed.
MOVING = frozenset({"metrics", "progress"})


def make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Follower:
    """Draws the events of one job; keeps the losses seen, for who wants to tell whether they fell."""

    def __init__(self, progress: Progress, title: str):
        self.losses: list[tuple[int, float]] = []
        self._progress = progress
        self._title = title
        self._bar: TaskID | None = None
        self._phase = ""
        self._note = ""
        self._num_moves = 0

    def show(self, event: dict[str, Any]) -> None:
        data = event.get("data") or {}
        if event["type"] == "phase":
            self._enter(str(data.get("phase") or event.get("message", "")))
        elif event["type"] in MOVING:
            self._move(event, data)
        elif event.get("message"):
            self._line(event)

    def _enter(self, phase: str) -> None:
        self._phase, self._note = phase, ""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"  {self._title}: {phase}")

    def _move(self, event: dict[str, Any], data: dict[str, Any]) -> None:
        done, total = data.get("step", data.get("done")), data.get("total_steps", data.get("total"))
        if isinstance(data.get("loss"), int | float) and done is not None:
            self.losses.append((int(done), float(data["loss"])))
        if done is None or not total:
            return
        # Steps and metrics come as events of their own: the last loss stays on the line.
        note = self._note = _note(data) or self._note
        count = show.count(done, total, data.get("unit") or "steps")
        if self._bar is None:
            label = f"{self._title} {self._phase}".strip()
            self._bar = self._progress.add_task(label, total=total, note=note, count=count)
        self._progress.update(self._bar, completed=done, total=total, note=note, count=count)
        if not self._progress.console.is_terminal and self._num_moves % 10 == 0:
            self._progress.console.print(f"  {self._title}: {count} {note}")
        self._num_moves += 1

    def _line(self, event: dict[str, Any]) -> None:
        color = LEVELS.get(event.get("level", "info"), "dim")
        time = show.moment(event.get("created_at"))[11:]
        message = show.told(event | {"zh": (event.get("data") or {}).get("zh")})
        self._progress.console.print(f"  [dim]{time}[/] [{color}]{escape(message)}[/]", soft_wrap=True)


def watch(client: Client, console: Console, job_id: str) -> dict[str, Any]:
    """Follow the job to its end and return it."""
    job = client.get(f"/v1/jobs/{job_id}")
    if queue := job.get("queue"):
        console.print(f"  {escape(show.place(job))}: {escape(show.told(queue, 'reason'))}", soft_wrap=True)
    with make_progress(console) as progress:
        follower = Follower(progress, job.get("name") or job["kind"])
        for event in follow(client, job_id):
            follower.show(event)
    return dict(client.get(f"/v1/jobs/{job_id}"))


def conclude(console: Console, job: dict[str, Any]) -> int:
    """Say how the job ended; the exit code."""
    console.print(f"{show.status(job['status'])} {job['id']}", soft_wrap=True)
    if job.get("error"):
        error = job["error"]
        told = [show.told(error), str(error.get("message") or "")]
        show.refusal(console, "  ".join(dict.fromkeys(told)), [], field=error.get("field"))
    for name in job.get("result", {}).get("models") or filter(None, [job.get("result", {}).get("model")]):
        console.print(f"model: [bold]{escape(name)}[/]", soft_wrap=True)
    for line in verified.lines(job.get("result", {}).get("verification") or {}):
        console.print(f"  {escape(line)}", soft_wrap=True)
    if url := job.get("result", {}).get("url"):
        console.print(f"on the Hub: {escape(url)}", soft_wrap=True)
    for name, found in (job.get("result", {}).get("by_dataset") or {}).items():
        console.print(f"{escape(name)}: {escape(show.measured(found['metrics']))}", soft_wrap=True)
    for task in job.get("result", {}).get("tasks") or []:
        console.print(f"{escape(task['task'])}: {escape(show.measured(task['metrics']))}", soft_wrap=True)
    return 0 if job["status"] == "succeeded" else 1


def _note(data: dict[str, Any]) -> str:
    parts = [f"loss {data['loss']:.3f}" if isinstance(data.get("loss"), int | float) else ""]
    if isinstance(data.get("rows_per_second"), int | float):
        parts.append(f"{data['rows_per_second']:.1f} rows/s")
    if isinstance(data.get("tokens_per_second"), int | float):
        parts.append(f"{data['tokens_per_second']:.0f} tok/s")
    return "  ".join(part for part in parts if part)
