"""Routes: names that clients ask for, and the deployments that share their requests: list, set, show or delete one.

tunesmith routes set prod support@3=9 support@4=1      # a tenth of the requests goes to version 4"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from gateway.cli import flags, naming, show
from gateway.cli.client import Client

HELP = "list, set or delete names that share requests between deployments"


def add_arguments(parser: ArgumentParser) -> None:
    naming.add_arguments(parser)
    parser.add_argument(
        "targets", nargs="*", metavar="MODEL=WEIGHT", help="for set: all that it points at; without a weight: 1"
    )


def run(args: Namespace, console: Console) -> int:
    if (args.action != "list" and not args.name) or (args.action == "set" and not args.targets):
        args.parser.error(f"{args.action} needs NAME{' MODEL=WEIGHT ...' if args.action == 'set' else ''}")

    def write(client: Client, path: str) -> Any:
        return client.post("/v1/routes", {"name": args.name, "targets": [_target(text) for text in args.targets]})

    def tell(found: list[dict[str, Any]]) -> None:
        columns = "route", "target", "share", "ready replicas"
        show.table(console, columns, [row for one in found for row in _rows(one)], "no routes")

    return naming.act(args, console, "/v1/routes", write, tell)


def _target(text: str) -> dict[str, Any]:
    # From the right: versions have no equals signs, weights none either.
    model, _, weight = text.rpartition("=")
    return {"model": model, "weight": flags.value(weight)} if model else {"model": text}


def _rows(route: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (route["name"] if index == 0 else "", target["model"], f"{target['share']:.0%}", target["num_ready"])
        for index, target in enumerate(route["targets"])
    ]
