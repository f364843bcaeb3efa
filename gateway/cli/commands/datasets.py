"""List datasets, upload one (its rows are checked), or delete one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import Client, connect
from shared.settings import Settings

HELP = "list, add or delete datasets"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "add", "delete"])
    parser.add_argument(
        "item", nargs="?", metavar="FILE|ID", help="for add: a JSON, JSONL or CSV file; for delete: the id"
    )
    parser.add_argument("--name", help="for add: name in the catalog (default: the file's)")
    parser.add_argument("--formatting", help="for add: alpaca, sharegpt or openai (default: found out)")
    parser.add_argument("--limit", type=int, default=50)
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.item:
        args.parser.error(f"{args.action} needs {'FILE' if args.action == 'add' else 'ID'}")
    with connect(Settings.from_env()) as client:
        if args.action == "add":
            return _add(client, console, args)
        if args.action == "delete":
            client.delete(f"/v1/datasets/{args.item}")
            console.print(f"deleted {args.item}")
            return 0
        return _list(client, console, args)


def _add(client: Client, console: Console, args: Namespace) -> int:
    file = Path(args.item)
    if not file.is_file():
        args.parser.error(f"{file} is not a file")
    fields = {name: value for name in ("name", "formatting") if (value := getattr(args, name))}
    dataset = client.upload("/v1/datasets", file, fields)
    console.print(f"{dataset['id']}: {dataset['num_rows']} rows, {dataset['format']}", soft_wrap=True)
    return 0


def _list(client: Client, console: Console, args: Namespace) -> int:
    datasets = list(client.pages("/v1/datasets", args.limit))
    if args.json:
        show.as_json(console, datasets)
        return 0
    rows = [
        (data["id"], data.get("name"), data.get("format"), data.get("num_rows"), show.size(data.get("size_bytes")))
        for data in datasets
    ]
    show.table(console, ("id", "name", "format", "rows", "size"), rows, "no datasets")
    return 0
