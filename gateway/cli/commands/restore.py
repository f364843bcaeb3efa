"""Restore a backup into an empty installation: another database, another storage, another machine, a newer version.

The ledger (TUNESMITH_DATABASE_URL, SQLite or PostgreSQL whatever it was before) must hold no jobs, models, datasets or
deployments; files that are in the storage already are checked and stay. Every digest is checked. Done again after it
broke off, it goes on.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import show
from shared.settings import Settings

HELP = "restore a backup into an empty installation (on the server)"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("place", metavar="PLACE", help="a folder, or s3://bucket/folder")
    parser.add_argument("--backup", metavar="ID", help="which one (default: the newest; see backup --list)")
    show.add_json(parser)


def run(args: Namespace, console: Console) -> int:
    from gateway.admin.backup import commands

    return commands.bring_back(Settings.from_env(), console, args.place, args.backup, as_json=args.json)
