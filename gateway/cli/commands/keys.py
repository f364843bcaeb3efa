"""Create, import, list or revoke API keys. Works on the ledger, on the server; a key is shown when it is created."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from gateway.cli import show
from shared.settings import Settings

HELP = "create, import, list or revoke API keys (on the server)"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=["create", "import", "list", "revoke"])
    parser.add_argument("key", nargs="?", metavar="NAME|ID", help="create, import: a name for it; revoke: its id")
    parser.add_argument("--role", choices=["admin", "user", "viewer"], default="user", help="default: user")
    parser.add_argument(
        "--share", type=float, default=1.0, help="create: of the devices when others wait too (default 1)"
    )
    parser.add_argument("--secret-file", type=Path, metavar="FILE", help="import: the secret, made elsewhere")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    from gateway.admin import keys

    if args.action != "list" and not args.key:
        args.parser.error(f"{args.action} needs {'an ID' if args.action == 'revoke' else 'a NAME'}")
    if (args.action == "import") != (args.secret_file is not None):
        args.parser.error("--secret-file goes with import")
    with keys.opened(Settings.from_env()) as store:
        if args.action == "create":
            return keys.create(store, console, args.key, args.role, args.share)
        if args.action == "import":
            return keys.take_over(store, console, args.key, args.role, args.secret_file)
        if args.action == "revoke":
            return keys.revoke(store, console, args.key)
        return keys.show_all(store, console, args.json)
