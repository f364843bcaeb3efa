"""Talk to a deployed model. With a MESSAGE: one answer. Without: a conversation until Ctrl-D; when standard input is no
terminal, it is the message."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from gateway.cli.client import ApiError, Client, connect
from shared.settings import Settings

HELP = "talk to a deployed model"
#: Sampling flags, named as on the wire.
SAMPLING = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("message", nargs="?", metavar="MESSAGE")
    parser.add_argument("--system", help="system message")
    for name, kind in SAMPLING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)


def run(args: Namespace, console: Console) -> int:
    messages = [{"role": "system", "content": args.system}] if args.system else []
    options = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    with connect(Settings.from_env()) as client:
        for text in _messages(args, console):
            messages.append({"role": "user", "content": text})
            body = {"model": args.model, "messages": messages, "stream": True, **options}
            messages.append({"role": "assistant", "content": _answer(client, console, body)})
    return 0


def _messages(args: Namespace, console: Console) -> Iterator[str]:
    if args.message is not None:
        yield args.message
    elif not sys.stdin.isatty():
        yield sys.stdin.read()
    else:
        yield from _typed(console)


def _typed(console: Console) -> Iterator[str]:
    while True:
        try:
            text = console.input("[bold cyan]>[/] ").strip()
        except EOFError:
            console.print()
            return
        if text:
            yield text


def _answer(client: Client, console: Console, body: dict[str, Any]) -> str:
    parts = []
    with client.events("POST", "/v1/chat/completions", body=body) as events:
        for event in events:
            if event.data == "[DONE]":
                break
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise ApiError(500, chunk["error"])
            text = chunk["choices"][0]["delta"].get("content") or "" if chunk["choices"] else ""
            parts.append(text)
            console.out(text, end="", highlight=False)
    console.out("")
    return "".join(parts)
