"""List the catalog, register a base model, or delete a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any
from urllib.parse import quote

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list, add or delete models"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "add", "delete"])
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the model in the catalog")
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="for add: a Hub id, or a path under an import root")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if (args.action != "list" and not args.name) or (args.action == "add" and not args.source):
        args.parser.error(f"{args.action} needs NAME" + (" and SOURCE" if args.action == "add" else ""))
    with connect(Settings.from_env()) as client:
        if args.action == "add":
            model = client.post("/v1/models", {"name": args.name, "model_name_or_path": args.source})
            console.print(f"added [bold]{model['id']}[/]")
        elif args.action == "delete":
            client.delete(f"/v1/models/{quote(args.name, safe='')}")
            console.print(f"deleted {args.name}")
        else:
            _list(console, client.get("/v1/models")["data"], args.json)
    return 0


def _list(console: Console, models: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show.as_json(console, models)
        return
    columns = ("id", "kind", "base_model", "size_bytes", "job_id")
    rows = [[model.get(name) for name in columns] for model in models]
    for row in rows:
        row[3] = show.size(row[3])
    show.table(console, ("name", "kind", "base", "size", "made by"), rows, "no models")
