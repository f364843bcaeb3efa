"""Routes: names that clients ask for, and the deployments that share their requests: list, set, show or delete one.

tunesmith routes set prod support@3=9 support@4=1      # a tenth of the requests goes to version 4"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any
from urllib.parse import quote

from rich.console import Console

from gateway.cli import flags, show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list, set or delete names that share requests between deployments"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "show", "set", "delete"])
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument(
        "targets", nargs="*", metavar="MODEL=WEIGHT", help="for set: all that it points at; without a weight: 1"
    )
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if (args.action != "list" and not args.name) or (args.action == "set" and not args.targets):
        args.parser.error(f"{args.action} needs NAME{' MODEL=WEIGHT ...' if args.action == 'set' else ''}")
    path = f"/v1/routes/{quote(args.name or '', safe='')}"
    with connect(Settings.from_env()) as client:
        if args.action == "delete":
            client.delete(path)
            console.print(f"deleted {args.name}", markup=False)
            return 0
        if args.action == "set":
            found = [
                client.post("/v1/routes", {"name": args.name, "targets": [_target(text) for text in args.targets]})
            ]
        else:
            found = [client.get(path)] if args.action == "show" else client.get("/v1/routes")["data"]
    if args.json:
        show.as_json(console, found if args.action == "list" else found[0])
        return 0
    show.table(
        console,
        ("route", "target", "share", "ready replicas"),
        [row for one in found for row in _rows(one)],
        "no routes",
    )
    return 0


def _target(text: str) -> dict[str, Any]:
    # From the right: versions have no equals signs, weights none either.
    model, _, weight = text.rpartition("=")
    return {"model": model, "weight": flags.value(weight)} if model else {"model": text}


def _rows(route: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (route["name"] if index == 0 else "", target["model"], f"{target['share']:.0%}", target["num_ready"])
        for index, target in enumerate(route["targets"])
    ]
