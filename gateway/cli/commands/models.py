"""The registry: list models, look at one, register a base model, download or delete one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.cli import fetching, show
from gateway.cli.client import Client, connect
from gateway.cli.fetching import address
from gateway.cli.watch import make_progress
from shared.settings import Settings

HELP = "list, show, add, download or delete models"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=list(ACTIONS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the model in the catalog")
    parser.add_argument(
        "item",
        nargs="?",
        metavar="SOURCE|DIR",
        help="for add: a Hub id, or a path under an import root; for download: the folder (default: the model's name)",
    )
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    act, needed = ACTIONS[args.action]
    if None in (args.name, args.item)[: len(needed)]:
        args.parser.error(f"{args.action} needs {' and '.join(needed)}")
    with connect(Settings.from_env()) as client:
        act(client, console, args)
    return 0


def _list(client: Client, console: Console, args: Namespace) -> None:
    models = client.get("/v1/models")["data"]
    if args.json:
        show.as_json(console, models)
        return
    columns = ("id", "kind", "base_model", "size_bytes", "job_id")
    rows = [[model.get(name) for name in columns] for model in models]
    for row in rows:
        row[3] = show.size(row[3])
    show.table(console, ("name", "kind", "base", "size", "made by"), rows, "no models")


def _show(client: Client, console: Console, args: Namespace) -> None:
    model = client.get(address(args.name))
    if args.json:
        show.as_json(console, model)
        return
    told = {name: model.get(name) for name in ("id", "kind", "base_model", "job_id", "format", "digest")}
    told["size"] = show.size(model.get("size_bytes"))
    show.table(console, ("", ""), list(told.items()), "")


def _add(client: Client, console: Console, args: Namespace) -> None:
    model = client.post("/v1/models", {"name": args.name, "model_name_or_path": args.item})
    console.print(f"added [bold]{model['id']}[/]")


def _download(client: Client, console: Console, args: Namespace) -> None:
    folder = Path(args.item or args.name.rpartition("/")[2].replace(":", "-"))
    with make_progress(console) as progress:
        tasks: dict[str, Any] = {}

        def tell(path: str, num_bytes: int) -> None:
            if path not in tasks:
                tasks[path] = progress.add_task(path, total=None, count="", note="")
            progress.update(tasks[path], count=show.size(num_bytes))

        files = fetching.fetch(client, args.name, folder, tell)
    size = show.size(sum(file["size_bytes"] for file in files))
    console.print(f"{folder}: {len(files)} files, {size}, every SHA-256 as it was sealed", soft_wrap=True)


def _delete(client: Client, console: Console, args: Namespace) -> None:
    client.delete(address(args.name))
    console.print(f"deleted {args.name}")


#: Action -> what it does, and the words that it needs.
ACTIONS = {
    "list": (_list, ()),
    "show": (_show, ("NAME",)),
    "add": (_add, ("NAME", "SOURCE")),
    "download": (_download, ("NAME",)),
    "delete": (_delete, ("NAME",)),
}
