"""List jobs, show one, its checkpoints or files; change its priority; ask that it be cancelled, paused or resumed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import Client, connect
from shared.job import Kind, Status
from shared.settings import Settings

HELP = "list, show, prioritize, cancel, pause or resume jobs; list the checkpoints or files of one"


ACTIONS = ("list", "show", "checkpoints", "files", "prioritize", "cancel", "pause", "resume")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=ACTIONS)
    parser.add_argument("job", nargs="?", metavar="JOB", help="id of the job, for all but list")
    parser.add_argument("priority", nargs="?", type=int, metavar="N", help="prioritize: higher runs first (0)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="files: download them into this folder")
    parser.add_argument("--kind", choices=[kind.value for kind in Kind])
    parser.add_argument("--status", choices=[status.value for status in Status])
    parser.add_argument("--limit", type=int, default=20, help="how many to list, newest first (default 20)")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.job:
        args.parser.error(f"{args.action} needs the id of a job")
    if (args.action == "prioritize") != (args.priority is not None):
        args.parser.error("prioritize needs the id of a job and a number")
    with connect(Settings.from_env()) as client:
        if args.action == "list":
            return _list(client, console, args)
        if args.action == "show":
            show.as_json(console, client.get(f"/v1/jobs/{args.job}"))
            return 0
        if args.action == "checkpoints":
            return _checkpoints(client.get(f"/v1/jobs/{args.job}/checkpoints")["data"], console, args)
        if args.action == "files":
            return _files(client, console, args)
        if args.action == "prioritize":
            job = client.patch(f"/v1/jobs/{args.job}", {"priority": args.priority})
            console.print(f"{job['id']}: priority {job['priority']}, {show.place(job)}", soft_wrap=True)
            return 0
        job = client.post(f"/v1/jobs/{args.job}/{args.action}")
    console.print(f"{job['id']}: {show.status(job['status'])}, wanted: {job.get('wanted')}", soft_wrap=True)
    return 0


def _list(client: Client, console: Console, args: Namespace) -> int:
    jobs = list(client.pages("/v1/jobs", args.limit, kind=args.kind, status=args.status))
    if args.json:
        show.as_json(console, jobs)
        return 0
    rows = [
        (job["id"], job["kind"], job["status"], job.get("priority") or "", show.place(job) or show.progress(job),
         show.moment(job["created_at"]), job.get("name"))
        for job in jobs
    ]  # fmt: skip
    show.table(console, ("id", "kind", "status", "priority", "progress", "created", "name"), rows, "no jobs")
    return 0


def _checkpoints(found: list[dict[str, Any]], console: Console, args: Namespace) -> int:
    if args.json:
        show.as_json(console, found)
        return 0
    rows = [
        (one["step"], *(_number(one["metrics"].get(name)) for name in ("epoch", "loss", "eval_loss")),
         show.size(one["size_bytes"]), ", ".join(_marks(one)), one["name"] or one["id"])
        for one in found
    ]  # fmt: skip
    columns = ("step", "epoch", "loss", "eval_loss", "size", "", "name")
    show.table(console, columns, rows, "no checkpoints")
    return 0


def _files(client: Client, console: Console, args: Namespace) -> int:
    path = f"/v1/jobs/{args.job}/files"
    found = client.get(path)["data"]
    if args.to is not None:
        for file in found:
            client.download(path, args.to / file["path"], path=file["path"])
        console.print(f"{len(found)} files in {args.to}", soft_wrap=True)
        return 0
    if args.json:
        show.as_json(console, found)
        return 0
    show.table(console, ("size", "path"), [(show.size(one["size_bytes"]), one["path"]) for one in found], "no files")
    return 0


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _marks(checkpoint: dict[str, Any]) -> Iterator[str]:
    for mark in ("best", "newest", "resumable", "damaged"):
        if checkpoint[f"is_{mark}"]:
            yield mark
