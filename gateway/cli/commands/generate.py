"""Have a model answer every row of a file: uploaded, asked, followed, and the answers downloaded beside it.

FILE holds rows (JSONL, JSON, CSV ...: `messages`, `prompt` or `instruction`, or lines of OpenAI's batches), or is the
job's spec as YAML, which names a dataset. Ctrl-C leaves the job running; `tunesmith generate --job ID` takes it up."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import flags, show, submit, watch
from gateway.cli.client import FINISHED, Client, connect
from shared.settings import Settings
from shared.spec import GenerateSpec

HELP = "answer every row of a file"
SPECS = (".yaml", ".yml")
#: Member of a job's result -> what its file is called beside the rows.
FILES = {"output_file": "answers.jsonl", "error_file": "errors.jsonl"}


def add_arguments(parser: ArgumentParser) -> None:
    submit.add_arguments(parser)
    parser.add_argument("--job", metavar="ID", help="follow this job and download its answers; nothing is posted")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the answers go (default: beside FILE)")
    flags.add_spec(parser, GenerateSpec, "[FILE]")


def run(args: Namespace, console: Console) -> int:
    rows = _rows(args)
    with connect(Settings.from_env()) as client:
        job = client.get(f"/v1/jobs/{args.job}") if args.job else client.post("/v1/jobs", _body(client, args, rows))
        if args.json or args.detach:
            show.as_json(console, job) if args.json else console.print(job["id"])
            return 0
        console.print(f"generate [bold]{escape(job['id'])}[/]")
        if job["status"] not in FINISHED:
            job = watch.watch(client, console, job["id"])
        code = watch.conclude(console, job)
        _download(client, console, job, args.output, (rows or Path(job["id"])).with_suffix(""))
        return code


def _rows(args: Namespace) -> Path | None:
    """FILE, where it is none of a spec."""
    if args.file in (None, "-") or Path(args.file).suffix.lower() in SPECS:
        return None
    rows = Path(args.file)
    if not rows.is_file():
        args.parser.error(f"{rows} is not a file")
    args.file = None
    return rows


def _body(client: Client, args: Namespace, rows: Path | None) -> dict[str, Any]:
    body = submit.read(args, "generate", GenerateSpec)
    if rows is None:
        return body
    return body | {"dataset": client.upload("/v1/datasets", rows, {"purpose": "generate"})["id"]}


def _download(client: Client, console: Console, job: dict[str, Any], output: Path | None, stem: Path) -> None:
    """What there is, also of a job that was cancelled or has failed."""
    result = job.get("result") or {}
    if counted := result.get("num_rows"):
        failed = result.get("num_failed", 0)
        console.print(f"{counted - failed} answered, {failed} failed")
    for member, name in FILES.items():
        if (file := result.get(member)) is not None:
            target = stem.with_name(f"{stem.name}.{name}")
            if output is not None:
                target = output if member == "output_file" else output.with_name(f"{output.stem}.{name}")
            client.download(f"/v1/files/{file}/content", target)
            console.print(f"{name.partition('.')[0]}: [bold]{escape(str(target))}[/]", soft_wrap=True)
