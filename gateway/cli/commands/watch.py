"""Follow a job: its progress, loss and messages until it ends. A broken line is taken up again where it broke."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import watch
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "follow a job to its end"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="id of the job")


def run(args: Namespace, console: Console) -> int:
    with connect(Settings.from_env()) as client:
        return watch.conclude(console, watch.watch(client, console, args.job))
