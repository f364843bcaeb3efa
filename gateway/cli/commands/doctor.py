"""Check this installation and say what to do: folders, ledger, broker, storage, secrets, port, GPUs, environments, Hub.

Works before the first start, beside a running platform and within containers (`docker compose exec gateway tunesmith
doctor`); it starts and changes nothing. Exit code 1 where something does not work; warnings alone give 0.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import show
from shared.settings import Settings

HELP = "check this installation and say what to do (on the server)"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--imports", action="store_true", help="also import torch and vLLM (takes up to a minute)")
    show.add_json(parser)


def run(args: Namespace, console: Console) -> int:
    from gateway.admin.doctor import examine

    return examine.run(Settings.from_env(), console, with_imports=args.imports, as_json=args.json)
