"""The demo's screen: one line per step with the time it took, bars while it runs, the answers side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gateway.demo.questions import QUESTIONS


@dataclass(kw_only=True)
class Step:
    title: str
    #: What came out, shown on the step's line.
    outcome: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True)
class Screen:
    console: Console
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, title: str, doing: str = "") -> Iterator[Step]:
        """A step with a spinner; `doing` empty: the body draws by itself."""
        step, began = Step(title=title), time.monotonic()
        if doing:
            with self.console.status(f"[bold]{title}[/]: {doing}"):
                yield step
        else:
            yield step
        step.seconds = time.monotonic() - began
        self.steps.append(step)
        self.console.print(f"[green]done[/] [bold]{title:<10}[/] {step.seconds:6.1f} s  {step.outcome}", soft_wrap=True)


class Answers:
    """A column of answers for each model, filled while they stream."""

    def __init__(self, console: Console, names: Sequence[str]):
        self._console = console
        self._names = names
        self.texts = [["" for _ in QUESTIONS] for _ in names]

    @contextmanager
    def live(self) -> Iterator[None]:
        with Live(self._table(), console=self._console, refresh_per_second=8, transient=True) as live:
            self._live = live
            yield
        self._console.print(self._table())

    def put(self, column: int, row: int, text: str) -> None:
        self.texts[column][row] = text
        self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(show_lines=True, header_style="bold")
        table.add_column("question", ratio=1)
        for name in self._names:
            table.add_column(escape(name), ratio=2)
        for row, question in enumerate(QUESTIONS):
            table.add_row(question.text, *(self._cell(column[row], row) for column in self.texts))
        return table

    def _cell(self, text: str, row: int) -> str:
        color = "green" if QUESTIONS[row].is_answered_by(text) else "dim"
        return f"[{color}]{escape(text)}[/]"
