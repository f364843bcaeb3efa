"""Plan a training before it runs: memory of a card by part, steps, does it fit, what would make it fit, findings.

Takes what `train` takes, FILE.yaml and flags, and runs nothing. With --goal the file may lack all but model and
dataset: the answer is a spec to train with. A file of an export is answered, too; see `export --plan`."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import exportplan, flags, show
from gateway.cli.client import connect
from shared.settings import Settings
from shared.spec import TrainSpec
from shared.tongues import Text

HELP = "what a training would take, without running it"

#: `8xA100-80GB`, `H100-80GB`, `4x48GiB`.
CARDS = re.compile(r"(?:(\d+)\s*[xX*]\s*)?(.+)")
MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*Gi?B", re.IGNORECASE)
COLORS = {"fits": "green", "tight": "yellow", "does_not_fit": "red", "warning": "yellow", "error": "red"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="the spec; `-`: standard input")
    parser.add_argument("--gpus", type=cards, help="cards, e.g. 8xA100-80GB or 4x48GiB (default: what workers report)")
    parser.add_argument("--config", type=Path, help="config.json of a model that the platform does not have")
    parser.add_argument("--num-rows", type=int, help="rows of the training data (default: as uploaded)")
    parser.add_argument("--goal", choices=["style", "knowledge"], help="complete the spec for this goal")
    parser.add_argument("--all", action="store_true", help="every way to share, offload, adapt and compute it")
    show.add_json(parser)
    flags.add_spec(parser, TrainSpec, "[FILE.yaml]")
    parser.set_defaults(parser=parser)


def cards(text: str) -> dict[str, Any]:
    """`gpus` of the body."""
    found = CARDS.fullmatch(text.strip())
    if found is None:
        raise ArgumentTypeError(f"{text!r} names no card: write 8xA100-80GB or 4x48GiB")
    count, kind = int(found[1] or 1), found[2].strip()
    memory = MEMORY.fullmatch(kind)
    return {"count": count, **({"memory_gib": float(memory[1])} if memory else {"kind": kind})}


def run(args: Namespace, console: Console) -> int:
    try:
        body = flags.read_spec(args.file, args, TrainSpec)
        config = json.loads(args.config.read_text()) if args.config else None
    except OSError as error:
        args.parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        args.parser.error(f"{args.config}: no JSON ({error})")
    beside = {"gpus": args.gpus, "config": config, "num_rows": args.num_rows, "goal": args.goal}
    body |= {name: value for name, value in beside.items() if value is not None}
    ask(console, body, as_json=args.json, everything=args.all)
    return 0


def ask(console: Console, body: dict[str, Any], *, as_json: bool, everything: bool = False) -> None:
    with connect(Settings.from_env()) as client:
        made = client.post("/v1/plans", body)
    if as_json:
        show.as_json(console, made)
    else:
        tell(console, made, everything=everything)


def tell(console: Console, made: dict[str, Any], *, everything: bool = False) -> None:
    if made["kind"] == "export":
        exportplan.tell(console, made)
    else:
        _tell_training(console, made, everything=everything)
    for finding in made["findings"]:
        _finding(console, finding)


def _tell_training(console: Console, made: dict[str, Any], *, everything: bool) -> None:
    for line in (*_training(made), *_memory(made), *_nearest(made)):
        console.print(line, soft_wrap=True)
    if made.get("options"):
        console.print()
        columns, rows = _options(made["options"], everything=everything)
        show.table(console, columns, rows, "")
    if made.get("reasons"):
        console.print()
        rows = [(reason["field"], reason["value"], show.told(reason, "why")) for reason in made["reasons"]]
        show.table(console, [show.said(head) for head in ("recommended", "value", "why")], rows, "")
    console.print()


def _training(made: dict[str, Any]) -> Iterator[str]:
    told = made.get("training")
    if told:
        steps = Text("steps not known")
        if told["total_steps"]:
            steps = Text("{steps:,} steps", steps=told["total_steps"])
        text = "effective batch [bold]{batch}[/] on {devices} devices, {steps}"
        batch, devices = told["effective_batch"], told["num_devices"]
        yield show.said(Text(text, batch=batch, devices=devices, steps=steps))
    if made.get("model"):
        model = made["model"]
        text = "{family}: {weights:,} weights, {layers} layers"
        family = escape(model["family"])
        yield show.said(Text(text, family=family, weights=model["num_weights"], layers=model["num_layers"]))


def _memory(made: dict[str, Any]) -> Iterator[str]:
    memory = made.get("memory")
    if not memory:
        return
    parts = dict(memory["per_gpu_gib"])
    total = parts.pop("total")
    listed = "  ".join(f"{show.said(name)} {gib:.1f}" for name, gib in parts.items())
    words = show.said(memory["verdict"] or "")
    verdict = f"[{COLORS[memory['verdict']]}]{words}[/]" if memory["verdict"] else ""
    text = Text("memory of a card [bold]{total:.1f}[/] GiB {verdict}", total=total, verdict=verdict)
    if made["gpus"]:
        there = made["gpus"]["memory_gib"]
        text = Text(
            "memory of a card [bold]{total:.1f}[/] of {there:g} GiB {verdict}",
            total=total, there=there, verdict=verdict,
        )  # fmt: skip
    yield show.said(text)
    yield f"  {listed}"
    switch = Text("on") if memory["gradient_checkpointing"] else Text("off")
    yield show.said(Text("  on the host {gib:.0f} GiB; checkpointing {switch}", gib=memory["host_gib"], switch=switch))


def _nearest(made: dict[str, Any]) -> Iterator[str]:
    found = made.get("nearest")
    if found:
        patch = ", ".join(f"{name}: {json.dumps(value)}" for name, value in found["patch"].items())
        text = "nearest change that fits ({gib:.1f} GiB): [bold]{patch}[/]"
        yield show.said(Text(text, gib=found["per_gpu_gib"]["total"], patch=escape(patch)))


def _options(table: dict[str, Any], *, everything: bool) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """GiB of a card by ZeRO stage and offload, one column a method; or every row of the table."""
    if everything:
        return tuple(table["columns"]), [tuple(row) for row in table["rows"]]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    rows = [row for row in rows if row["attention"] == "flash" and row["checkpointing"]]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["zero_stage"], row["offload"], row["method"]): row for row in rows}
    places = list(dict.fromkeys((stage, offload) for stage, offload, _ in cells))
    lines = [(stage, offload, *(_cell(cells.get((stage, offload, name))) for name in methods))
             for stage, offload in places]  # fmt: skip
    return ("ZeRO", "offload", *(f"{name} GiB" for name in methods)), lines


def _cell(row: dict[str, Any] | None) -> str:
    marks = {"tight": " tight", "does_not_fit": " no"}
    return "" if row is None else f"{row['total_gib']:.1f}{marks.get(str(row.get('verdict')), '')}"


def _finding(console: Console, finding: dict[str, Any]) -> None:
    color = COLORS.get(finding["severity"], "dim")
    advice = f" {escape(show.told(finding, 'advice'))}" if finding["advice"] else ""
    head = f"[{color}]{finding['severity']:7}[/] [bold]{escape(finding['field'])}[/]"
    console.print(f"{head} {escape(show.told(finding))}{advice} [dim]({finding['source']})[/]", soft_wrap=True)
