"""Presets: generation parameters kept under a name, which requests name: list, show, set or delete one.

tunesmith presets set short --max-new-tokens 64 --temperature 0.2
tunesmith chat MODEL --preset short"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from gateway.cli import flags, naming, show
from gateway.cli.client import Client

HELP = "list, set or delete generation parameters under a name"


def add_arguments(parser: ArgumentParser) -> None:
    naming.add_arguments(parser)
    parser.add_argument("--description", help="for set: what it is for")
    flags.add_generation(parser, "[list|show|set|delete] [NAME]", preset=False)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.name:
        args.parser.error(f"{args.action} needs NAME")

    def write(client: Client, path: str) -> Any:
        told = {"description": args.description} if args.description else {}
        return client.put(path, {"parameters": flags.generation(args), **told})

    def tell(found: list[dict[str, Any]]) -> None:
        rows = [(one["name"], flags.shown(one["parameters"]), one["description"]) for one in found]
        show.table(console, ("preset", "parameters", "for"), rows, "no presets")

    return naming.act(args, console, "/v1/presets", write, tell)
