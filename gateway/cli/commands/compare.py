"""Ask several deployed models the same, or one under several settings, and show the answers side by side. Words that
the first answer does not have are green, ends and times stand below. Where nobody says how long an answer may be, it
has at most 512 tokens. Exit code 1: an answer failed.

  tunesmith compare base tuned --prompt "Who are you?" --temperature 0
  tunesmith compare tuned --setting temperature=0 --setting "temperature=0.9, seed=1" --prompts questions.txt"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli import flags, show
from gateway.cli.client import Client, connect
from shared import strict_json
from shared.settings import Settings

HELP = "ask several models the same, side by side"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="what the others are compared with comes first")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="again: one more")
    parser.add_argument(
        "--prompts", metavar="FILE", help="one in each line, or JSON lines with messages or prompt; `-`: standard input"
    )
    parser.add_argument("--system", help="system message")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE,...", help="a column of its own; again: one more"
    )
    parser.add_argument("--completions", action="store_true", help="continue texts: models without a chat template")
    parser.add_argument("--parallel", type=int, metavar="N", help="answers at once; 1: times that nothing disturbs")
    show.add_json(parser)
    flags.add_generation(parser, "MODEL [MODEL ...] --prompt TEXT")
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    try:
        body = _body(args)
    except (OSError, UnicodeDecodeError) as error:
        args.parser.error(str(error))
    with connect(Settings.from_env()) as client:
        if args.json:
            told = client.post("/v1/compare", body)
            show.as_json(console, told)
            return int(any(column["num_failed"] for column in told["summary"]))
        return _live(client, console, body)


def _body(args: Namespace) -> dict[str, Any]:
    prompts = [*args.prompt, *(_prompts(args.prompts) if args.prompts else [])]
    given = {
        "prompts": prompts or None,
        "system": args.system,
        "settings": [_setting(text) for text in args.setting] or None,
        "endpoint": "/v1/completions" if args.completions else None,
        "parallel": args.parallel,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return {"models": args.models, **told, **flags.generation(args)}


def _prompts(path: str) -> Iterator[Any]:
    for line in Path("/dev/stdin" if path == "-" else path).read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            row = strict_json.loads(line, what="prompts")
            yield row.get("messages") or row.get("prompt")
        elif line.strip():
            yield line


def _setting(text: str) -> dict[str, Any]:
    """`temperature=0.2, seed=1` as YAML's own mapping in one line has it."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {name.strip(): flags.value(value) for name, _, value in pairs if name.strip()}


def _live(client: Client, console: Console, body: dict[str, Any]) -> int:
    begun: dict[str, Any] = {}
    summary: list[dict[str, Any]] = []
    cells: dict[int, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    with client.events("POST", "/v1/compare", body={**body, "stream": True}) as events, console.status("asking"):
        for event in events:
            data = json.loads(event.data)
            if event.type == "comparison":
                begun = data
            elif event.type in ("answer", "difference"):
                cells[data["row"]][data["column"]][event.type] = data
            elif event.type == "row":
                _show(console, begun["rows"][data["row"]], begun["columns"], cells.pop(data["row"]))
            elif event.type == "done":
                summary = data["summary"]
    _show_summary(console, begun["columns"], summary)
    return int(not summary or any(column["num_failed"] for column in summary))


def _show(
    console: Console, row: dict[str, Any], columns: list[dict[str, Any]], cells: dict[int, dict[str, Any]]
) -> None:
    asked = row["prompt"] if "prompt" in row else row["messages"][-1].get("content")
    console.print()
    console.print(Text(str(asked), style="bold"))
    grid = Table(box=None, header_style="cyan", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(Text(column["name"]), overflow="fold", ratio=1)
    grid.add_row(*(_answer(cells[at]) for at in range(len(columns))))
    grid.add_row(*(Text(_note(cells[at]["answer"]), style="dim") for at in range(len(columns))))
    console.print(grid)


def _answer(cell: dict[str, Any]) -> Text:
    answer = cell["answer"]
    if answer["error"]:
        return Text(f"{answer['text']}\n{show.told(answer['error'])}".strip(), style="red")
    if "difference" not in cell:
        return Text(answer["text"])
    told = [change for change in cell["difference"]["changes"] if change["op"] != "removed"]
    return Text.assemble(*((change["text"], "green" if change["op"] == "added" else "") for change in told))


def _note(answer: dict[str, Any]) -> str:
    parts = [
        f"{answer['completion_tokens']} tokens" if answer["completion_tokens"] else "",
        f"{answer['seconds']:.2f} s",
    ]
    if answer["first_token_seconds"] is not None:
        parts.append(f"first after {answer['first_token_seconds']:.2f} s")
    return ", ".join(filter(None, [*parts, answer["finish_reason"]]))


def _show_summary(console: Console, columns: list[dict[str, Any]], summary: list[dict[str, Any]]) -> None:
    console.print()
    rows = [
        (columns[told["column"]]["name"], told["num_answers"], told["num_failed"], told["completion_tokens"],
         told["mean_seconds"], told["mean_first_token_seconds"], told["tokens_per_second"])
        for told in summary
    ]  # fmt: skip
    names = ("", "answers", "failed", "tokens", "seconds", "to the first token", "tokens/s")
    show.table(console, names, rows, "")
