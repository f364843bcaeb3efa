"""Start the platform on this machine: broker, gateway, workers and beat under one supervisor, until Ctrl-C.

Ctrl-C (or SIGTERM) stops everything it started, in order; a running training writes its checkpoint and goes back into
the queue. Starting again in the same home (TUNESMITH_HOME, default .tunesmith) goes on from there.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from shared.settings import Settings

HELP = "start the platform on this machine"


def add_arguments(parser: ArgumentParser) -> None:
    """No flags: all is set by the environment, as for every service (see shared/settings.py)."""


def run(args: Namespace, console: Console) -> int:
    from gateway.admin import up

    return up.run(Settings.from_env(), console)
