"""Presets: generation parameters kept under a name, which requests name: list, show, set or delete one.

tunesmith presets set short --max-new-tokens 64 --temperature 0.2
tunesmith chat MODEL --preset short"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from urllib.parse import quote

from rich.console import Console

from gateway.cli import flags, show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list, set or delete generation parameters under a name"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "show", "set", "delete"])
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--description", help="for set: what it is for")
    show.add_json(parser)
    flags.add_generation(parser, "[list|show|set|delete] [NAME]", preset=False)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.name:
        args.parser.error(f"{args.action} needs NAME")
    path = f"/v1/presets/{quote(args.name or '', safe='')}"
    with connect(Settings.from_env()) as client:
        if args.action == "delete":
            client.delete(path)
            console.print(f"deleted {args.name}", markup=False)
            return 0
        if args.action == "set":
            told = {"description": args.description} if args.description else {}
            found = [client.put(path, {"parameters": flags.generation(args), **told})]
        else:
            found = [client.get(path)] if args.action == "show" else client.get("/v1/presets")["data"]
    if args.json:
        show.as_json(console, found if args.action == "list" else found[0])
        return 0
    rows = [(one["name"], flags.shown(one["parameters"]), one["description"]) for one in found]
    show.table(console, ("preset", "parameters", "for"), rows, "no presets")
    return 0
