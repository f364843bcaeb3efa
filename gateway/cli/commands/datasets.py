"""List datasets, upload one or all of a `dataset_info.json` (their rows are checked), or delete one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from gateway.cli import describing, show
from gateway.cli.client import Client, connect
from shared.errors import InvalidDataset
from shared.settings import Settings

HELP = "list, add, import or delete datasets"
NEEDED = {"add": "FILE", "import": "DIR", "delete": "ID"}
#: As every command ends whose request was refused.
REFUSED = 2
#: Fields of an upload that are flags.
DESCRIBED = ("formatting", "columns", "tags", "ranking", "num_samples")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "add", "import", "delete"])
    parser.add_argument(
        "item",
        nargs="?",
        metavar="FILE|DIR|ID",
        help="for add: a JSON, JSONL, CSV, Parquet, Arrow or text file; for import: a folder with LLaMA Factory's "
        "dataset_info.json; for delete: the id",
    )
    parser.add_argument("--name", help="for add: name in the catalog (default: the file's)")
    parser.add_argument("--formatting", help="for add: alpaca, sharegpt or openai (default: found out)")
    parser.add_argument("--columns", metavar="JSON", help='for add: {"prompt": "question", "response": "answer"}')
    parser.add_argument("--tags", metavar="JSON", help="for add: what the data calls the roles of messages")
    parser.add_argument("--ranking", choices=["true", "false"], help="for add: rows hold a better and a worse answer")
    parser.add_argument("--num-samples", help="for add: rows that a training draws of it")
    parser.add_argument("--limit", type=int, default=50)
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.item:
        args.parser.error(f"{args.action} needs {NEEDED[args.action]}")
    with connect(Settings.from_env()) as client:
        if args.action == "add":
            return _add(client, console, args)
        if args.action == "import":
            return _import(client, console, args)
        if args.action == "delete":
            client.delete(f"/v1/datasets/{args.item}")
            console.print(f"deleted {args.item}")
            return 0
        return _list(client, console, args)


def _add(client: Client, console: Console, args: Namespace) -> int:
    file = Path(args.item)
    if not file.is_file():
        args.parser.error(f"{file} is not a file")
    fields = {name: value for name in ("name", *DESCRIBED) if (value := getattr(args, name))}
    dataset = client.upload("/v1/datasets", file, fields)
    told = f"{dataset['num_rows']} rows, {dataset['format']}, {dataset.get('kind')}"
    console.print(f"{dataset['id']}: {told}", soft_wrap=True)
    return 0


def _import(client: Client, console: Console, args: Namespace) -> int:
    try:
        failed = describing.run(client, console, Path(args.item))
    except InvalidDataset as error:
        console.print(error.message, soft_wrap=True, markup=False)
        return REFUSED
    return REFUSED if failed else 0


def _list(client: Client, console: Console, args: Namespace) -> int:
    datasets = list(client.pages("/v1/datasets", args.limit))
    if args.json:
        show.as_json(console, datasets)
        return 0
    rows = [
        (data["id"], data.get("name"), data.get("format"), data.get("kind"), data.get("num_rows"),
         show.size(data.get("size_bytes")))
        for data in datasets
    ]  # fmt: skip
    show.table(console, ("id", "name", "format", "kind", "rows", "size"), rows, "no datasets")
    return 0
