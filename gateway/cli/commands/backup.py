"""Back ledger and artifacts up to a folder or an object store, while the platform runs.

Files are kept once, by their digest: a further backup to the same place writes only what is new. What is written is
read again. Keys of S3 are taken from the environment, as for TUNESMITH_STORAGE_URL. API keys are in it as digests;
secrets of jobs that are not over (tokens of the Hub and of trackers) are in it readable: keep the place private, or
leave them out with --without-secrets.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from rich.console import Console

from gateway.cli import show
from shared.settings import Settings

HELP = "back up ledger and artifacts (on the server)"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("place", metavar="PLACE", help="a folder, or s3://bucket/folder")
    parser.add_argument(
        "--keep", type=positive, metavar="N", help="then let all but the newest N of this installation go"
    )
    parser.add_argument("--without-secrets", action="store_true", help="leave out secrets of jobs that are not over")
    parser.add_argument("--list", action="store_true", help="only show what is there")
    parser.add_argument(
        "--check", nargs="?", const="", metavar="ID", help="only read one again, whole (default: newest)"
    )
    show.add_json(parser)


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def run(args: Namespace, console: Console) -> int:
    from gateway.admin.backup import commands

    settings = Settings.from_env()
    if args.list:
        return commands.show_all(console, args.place, as_json=args.json)
    if args.check is not None:
        return commands.check(settings, console, args.place, args.check or None)
    return commands.back_up(
        settings, console, args.place, keep=args.keep, with_secrets=not args.without_secrets, as_json=args.json
    )
