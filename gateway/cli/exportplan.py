"""What the answer to a plan of an export looks like on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import show
from shared.tongues import Text

COLORS = {"fits": "green", "does_not_fit": "red"}


def tell(console: Console, made: dict[str, Any]) -> None:
    for line in lines(made):
        console.print(line, soft_wrap=True)
    console.print()
    chosen = made["export"]["format"], made["export"]["bits"]
    rows = [
        (
            ("> " if (row["format"], row["bits"]) == chosen else "  ") + row["format"],
            row["bits"],
            gib(row["size_gib"]),
            show.said("texts") if row["calibrated"] else "",
            served(row),
        )
        for row in made["formats"]
    ]
    heads = ("  format", "bits", "size", "calibrated with", "served by vLLM on")
    show.table(console, [show.said(head) for head in heads], rows, "")
    console.print()


def lines(made: dict[str, Any]) -> Iterator[str]:
    export, disk, memory, seconds = (made[name] for name in ("export", "disk", "memory", "seconds"))
    yield show.said(
        Text(
            "[bold]{format}[/] of {names}: {size}",
            format=export["format"],
            names=escape(" + ".join([export["base"], *export["adapters"]])),
            size=gib(export["size_gib"]) or show.said("size not known"),
        )
    )
    if export["calibration"]:
        yield show.said(Text("calibrated with the texts of {names}", names=escape(", ".join(export["calibration"]))))
    if disk:
        free = Text(" of {free} free on {worker}", free=gib(disk["free_gib"]), worker=disk["worker"])
        text = Text("disk {need}{free}", need=gib(disk["scratch_gib"]), free=free if disk["worker"] else "")
        yield f"{show.said(text)} {verdict(disk['verdict'])}"
    if memory:
        parts = ", ".join(f"{show.said(name)} {gib(size)}" for name, size in memory["host_gib"].items())
        yield f"{show.said(Text('memory of the host by phase: {parts}', parts=parts))} {verdict(memory['verdict'])}"
    if seconds:
        how = Text("as earlier exports here") if seconds["is_measured"] else Text("roughly, on two cores")
        text = Text("about {seconds} s ({how})", seconds=seconds["total"], how=how)
        yield show.said(text)
    if not export["takes_device"]:
        yield show.said("on the CPU, beside trainings: it waits for no device")


def served(row: dict[str, Any]) -> str:
    vllm = row["vllm"]
    if row["programs"]:
        return ", ".join(row["programs"])
    where = show.said(vllm["where"])
    return where + (f" ({show.said('not here')})" if vllm["here"] is False else "")


def verdict(word: str | None) -> str:
    return f"[{COLORS[word]}]{show.said(word)}[/]" if word else ""


def gib(size: float | None) -> str:
    return "" if size is None else f"{size:.2f} GiB"
