"""Show what a training would read of a dataset: exact text with the learned tokens in green, and the lengths that
cutoff_len is for. The spec is a training's, from a LLaMA Factory YAML or flags. Nothing is queued."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gateway.cli import flags, show
from gateway.cli.client import connect
from shared.settings import Settings
from shared.spec import TrainSpec

HELP = "show what a training would read of a dataset"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="DATASET", help="id or name of the dataset")
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="the spec; `-`: standard input")
    parser.add_argument(
        "--rows", type=int, nargs="+", metavar="N", help="rows to show, counted from 0 (default: 0 1 2)"
    )
    show.add_json(parser)
    flags.add_spec(parser, TrainSpec, "DATASET [FILE.yaml]")
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    try:
        body = flags.read_spec(args.file, args, TrainSpec)
    except OSError as error:
        args.parser.error(f"{args.file}: {error.strerror}")
    rows = {"rows": args.rows} if args.rows else {}
    with connect(Settings.from_env()) as client:
        found = client.post(f"/v1/datasets/{args.name}/preview", body | rows)
    if args.json:
        show.as_json(console, found)
        return 0
    for row in found["rows"]:
        _show(console, row)
    lengths = found["lengths"]
    marks = ", ".join(f"{name} {lengths[name]}" for name in ("p50", "p95", "p99", "length_max"))
    console.print(f"[bold]{lengths['num_rows']} samples measured[/]: {marks} tokens")
    for finding in found["findings"]:
        text = f"{finding['severity']}: {show.told(finding)} {show.told(finding, 'advice')}"
        console.print(escape(text), soft_wrap=True)
    return 0


def _show(console: Console, row: dict[str, Any]) -> None:
    if "problem" in row:
        problem = escape(row["problem"])
        console.print(f"[bold]row {row['row']}[/] [red]cannot be trained on:[/] {problem}", soft_wrap=True)
    for sample in row["samples"]:
        cut = ", cut" if sample["was_cut"] else ""
        counts = f"{sample['num_tokens']} tokens, {sample['num_learned']} learned{cut}"
        console.print(f"[bold]row {row['row']}[/]: {counts}")
        text = Text()
        for part in sample["segments"]:
            text.append(part["text"], style="green" if part["learned"] else "dim")
        console.print(text, soft_wrap=True)
