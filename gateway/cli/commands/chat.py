"""Talk to a deployed model. With a MESSAGE: one answer. Without: a conversation until Ctrl-D, in which /help lists the
commands and Ctrl-C stops an answer. Standard input that is no terminal is the message; beside one it is read as the
file `-`: `make 2>&1 | tunesmith chat MODEL "What is wrong here?" --file -`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from gateway.cli import flags, speaking
from gateway.cli.client import Client, connect
from gateway.cli.conversation import Conversation
from shared.settings import Settings

HELP = "talk to a deployed model"
INTERRUPTED = 130


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a deployment, a route, a version or base@adapter")
    parser.add_argument("message", nargs="?", metavar="MESSAGE")
    parser.add_argument("--system", default="", help="system message")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        help="a text that goes before the message, `-`: standard input",
    )
    flags.add_generation(parser, "MODEL [MESSAGE]")
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    try:
        parts = [sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8") for path in args.file]
    except (OSError, UnicodeDecodeError) as error:
        args.parser.error(str(error))
    with connect(Settings.from_env()) as client:
        parameters = flags.generation(args)
        conversation = Conversation(
            client=client, console=console, model=args.model, system=args.system, parameters=parameters
        )
        if args.message is None and sys.stdin.isatty():
            conversation.attached = parts
            return _converse(conversation)
        parts.append(sys.stdin.read() if args.message is None else args.message)
        return _once(client, console, conversation, "\n\n".join(part for part in parts if part))


def _once(client: Client, console: Console, conversation: Conversation, text: str) -> int:
    conversation.messages.append({"role": "user", "content": text})
    body = {name: value for name, value in conversation.body().items() if name != "stream_options"}
    return INTERRUPTED if speaking.speak(client, console, body).is_stopped else 0


def _converse(conversation: Conversation) -> int:
    # Lines can be edited and called back; imported where there is a terminal only.
    import readline  # noqa: F401

    conversation.tell(f"{conversation.model}; /help lists the commands, Ctrl-D leaves")
    while (line := _line(conversation.console)) is not None:
        if line and not conversation.hear(line):
            break
    return 0


def _line(console: Console) -> str | None:
    """What was typed, over several lines where they end with a backslash; None: no more."""
    typed = ""
    while True:
        try:
            # Not the console's input: a prompt that readline does not know of is lost when a line is edited.
            typed += input("> " if not typed else ". ")
        except EOFError:
            console.print()
            return None
        except KeyboardInterrupt:
            console.print()
            return ""
        if not typed.endswith("\\"):
            return typed.strip()
        typed = typed.removesuffix("\\") + "\n"
