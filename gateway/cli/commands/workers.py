"""List workers: what they do, on which devices, who holds these, and what each runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list workers and their devices"


def add_arguments(parser: ArgumentParser) -> None:
    show.add_json(parser)


def run(args: Namespace, console: Console) -> int:
    with connect(Settings.from_env()) as client:
        workers = client.get("/v1/workers")["data"]
    if args.json:
        show.as_json(console, workers)
        return 0
    rows = [row for worker in workers for row in _rows(worker)]
    show.table(console, ("worker", "does", "now", "device", "memory", "held by", "labels"), rows, "no workers")
    return 0


def _rows(worker: dict[str, Any]) -> list[tuple[Any, ...]]:
    """One for each device; the worker itself is told in the first."""
    devices = [_device(device) for device in worker["devices"]] or [("", "", "")]
    first = (worker["id"], ", ".join(worker["kinds"]), _now(worker))
    labels = ", ".join(worker["labels"])
    return [(*first, *devices[0], labels), *(("", "", "", *device, "") for device in devices[1:])]


def _now(worker: dict[str, Any]) -> str:
    if not worker["alive"]:
        return f"silent for {worker['age_seconds']:.0f} s"
    job = worker["job"]
    if job is None:
        return "idle"
    left = f", {job['seconds_left'] / 60:.0f} min left" if job["seconds_left"] is not None else ""
    return f"{job['id'] or 'job of another project'}{left}"


def _device(device: dict[str, Any]) -> tuple[str, str, str]:
    held = device["held_by"]
    name = f"{device['name']}  {device['id']}" if device["name"] else device["id"]
    memory = f"{device['memory_gib']:g} GiB" if device["memory_gib"] else ""
    return name, memory, "" if held is None else (held["id"] or held["kind"] or "another process")
