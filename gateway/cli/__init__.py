"""The `tunesmith` command: clients of the HTTP API, and what runs on the server (up, keys, migrate).

A command is a module in commands/ with HELP, add_arguments(parser) and run(args, console) -> exit code; its name is the
file's. Exit codes: 0 done, 1 the job or deployment failed, 2 the request was refused, 3 the platform cannot be reached,
130 Ctrl-C. Client commands import no server code; server commands import theirs when they run.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from types import ModuleType

from rich.console import Console

from gateway.cli import commands, show
from gateway.cli.client import ApiError, Unreachable
from shared.errors import TunesmithError

FAILED, REFUSED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Into a file or a pipe, tables are not squeezed into 80 columns: scripts cut lines, not words.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    errors = Console(stderr=True, highlight=False)
    args = read(arguments)
    try:
        return int(args.run(args, console))
    except ApiError as error:
        show.refusal(errors, show.told(vars(error)), error.issues, field=error.field)
        return FAILED if error.status >= 500 else REFUSED
    except TunesmithError as error:
        show.refusal(errors, error.message, [complaint.as_dict() for complaint in error.complaints], field=error.field)
        return REFUSED
    except Unreachable as error:
        show.refusal(errors, str(error), [], advice="Start the platform with `tunesmith up`, or set TUNESMITH_URL.")
        return UNREACHABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def read(arguments: Sequence[str]) -> Namespace:
    """What a command line says. Exits with the usage where it says what there is not."""
    top, command = _parsers(arguments)
    if command is None or not command.prog.endswith(f" {arguments[0]}"):
        return top.parse_args(arguments)
    # Else `chat MODEL --preset short PROMPT` has a word too many: argparse gives an optional word up at the first flag.
    return command.parse_intermixed_args(arguments[1:])


def parser(arguments: Sequence[str]) -> ArgumentParser:
    return _parsers(arguments)[0]


def _parsers(arguments: Sequence[str]) -> tuple[ArgumentParser, ArgumentParser | None]:
    """All commands with their help, but arguments only for the one asked for: some have 100 flags to build."""
    top, chosen = (
        ArgumentParser(prog="tunesmith", description="Fine-tune, export and serve large language models."),
        None,
    )
    choices = top.add_subparsers(metavar="COMMAND", required=True)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        module = importlib.import_module(f"{commands.__name__}.{name}")
        command = choices.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=RawDescriptionHelpFormatter
        )
        if name == asked:
            _complete(command, module)
            chosen = command
    return top, chosen


def _complete(command: ArgumentParser, module: ModuleType) -> None:
    module.add_arguments(command)
    command.set_defaults(run=module.run)
