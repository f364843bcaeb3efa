"""Bring the ledger's tables to this version. `tunesmith up` does it by itself; containers run it first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from shared.settings import Settings

HELP = "bring the ledger's tables up to date (on the server)"


def add_arguments(parser: ArgumentParser) -> None:
    """No flags: the ledger is TUNESMITH_DATABASE_URL."""


def run(args: Namespace, console: Console) -> int:
    from gateway.admin import migrate

    return migrate.run(Settings.from_env(), console)
