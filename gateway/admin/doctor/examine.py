"""All checks, one after the other, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from gateway.admin.doctor import broker, environments, ledger, machine
from gateway.admin.doctor.findings import Finding, State, error
from gateway.cli import show
from shared.settings import Settings

Check = Callable[[Settings], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "folders": machine.folders,
    "ledger": ledger.look,
    "broker": broker.look,
    "storage": machine.storage,
    "secrets": machine.privacy,
    "port": machine.port,
    "GPUs": machine.gpus,
    "/dev/shm": machine.shared_memory,
    "open files": machine.open_files,
    "environments": environments.versions,
    "Hub": machine.hub,
}
COLORS = {State.OK: "green", State.WARNING: "yellow", State.ERROR: "red"}
SICK = 1


def run(settings: Settings, console: Console, *, with_imports: bool, as_json: bool) -> int:
    """1 where something does not work."""
    checks = CHECKS | ({"imports": environments.imports} if with_imports else {})
    found: list[Finding] = []
    for finding in examine(settings, checks):
        found.append(finding)
        if not as_json:
            _tell(console, finding)
    counts = {state: sum(finding.state == state for finding in found) for state in State}
    if as_json:
        show.as_json(console, {"counts": counts, "findings": [asdict(finding) for finding in found]})
    else:
        errors, warnings = counts[State.ERROR], counts[State.WARNING]
        console.print(f"{len(found)} checks: {errors} errors, {warnings} warnings")
    return SICK if counts[State.ERROR] else 0


def examine(settings: Settings, checks: dict[str, Check]) -> Iterator[Finding]:
    """A check that breaks is a finding: the others still tell."""
    for name, check in checks.items():
        try:
            yield from check(settings)
        except Exception as broken:  # whatever is wrong with an installation, it is said
            yield error(name, f"the check failed: {type(broken).__name__}: {broken}", "see the message")


def _tell(console: Console, finding: Finding) -> None:
    state = f"[{COLORS[finding.state]}]{finding.state:7}[/]"
    console.print(f"{state} [bold]{escape(finding.name)}[/]  {escape(finding.told)}", soft_wrap=True)
    if finding.advice:
        console.print(f"        {escape(finding.advice)}", soft_wrap=True)
