"""What `train` and `export` share: a body from file and flags, posted as a job, followed to its end."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import flags, show, watch
from gateway.cli.client import connect
from shared.settings import Settings, process_environment

#: A secret has no flag: it would be seen in the list of processes.
TOKEN = "hf_hub_token"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="the spec; `-`: standard input")
    parser.add_argument("--name", help="name of the job")
    parser.add_argument("--priority", type=int, help="higher runs first (default 0)")
    flags.add_requirements(parser)
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave; see `tunesmith watch`")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def read(args: Namespace, kind: str, spec: type) -> dict[str, Any]:
    """The body to post."""
    try:
        body = flags.read_spec(args.file, args, spec)
    except OSError as error:
        args.parser.error(f"{args.file}: {error.strerror}")
    asked = flags.required(args)
    if asked:
        filed = body.get("requires")
        body["requires"] = {**(filed if isinstance(filed, dict) else {}), **asked}
    if body.get("export_hub_model_id") and not body.get(TOKEN) and (token := hub_token()):
        body[TOKEN] = token
    envelope = {"kind": kind, "name": args.name, "priority": args.priority}
    return body | {name: value for name, value in envelope.items() if value is not None}


def hub_token() -> str | None:
    """Of who calls, where the Hub's own clients look for it; it goes along only with what is pushed."""
    return process_environment("HF_TOKEN").get("HF_TOKEN") or None


def run(args: Namespace, console: Console, kind: str, spec: type) -> int:
    body = read(args, kind, spec)
    with connect(Settings.from_env()) as client:
        job = client.post("/v1/jobs", body)
        if args.json:
            show.as_json(console, job)
        elif args.detach:
            console.print(job["id"])
        if args.json or args.detach:
            return 0
        console.print(f"{kind} [bold]{escape(job['id'])}[/]")
        return watch.conclude(console, watch.watch(client, console, job["id"]))
