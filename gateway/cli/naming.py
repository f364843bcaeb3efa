"""What the commands have in common that list, show, set and delete records kept under a name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import Client, connect
from shared.settings import Settings

Record = dict[str, Any]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "show", "set", "delete"])
    parser.add_argument("name", nargs="?", metavar="NAME")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def act(
    args: Namespace,
    console: Console,
    collection: str,
    write: Callable[[Client, str], Any],
    tell: Callable[[list[Record]], None],
) -> int:
    """Does what is asked for. `write` sets one, whose path it is given; `tell` shows those that were found."""
    path = f"{collection}/{quote(args.name or '', safe='')}"
    with connect(Settings.from_env()) as client:
        if args.action == "delete":
            client.delete(path)
            console.print(f"deleted {args.name}", markup=False)
            return 0
        if args.action == "list":
            found = client.get(collection)["data"]
        else:
            found = [write(client, path) if args.action == "set" else client.get(path)]
    if args.json:
        show.as_json(console, found if args.action == "list" else found[0])
    else:
        tell(found)
    return 0
