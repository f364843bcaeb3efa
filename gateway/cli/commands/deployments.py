"""List deployments and their replicas' state, or stop one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list or stop deployments"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", "stop"])
    parser.add_argument("deployment", nargs="?", metavar="ID")
    show.add_json(parser)
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action == "stop" and not args.deployment:
        args.parser.error("stop needs the id of a deployment")
    with connect(Settings.from_env()) as client:
        if args.action == "stop":
            client.delete(f"/v1/deployments/{args.deployment}")
            console.print(f"stopping {args.deployment}")
            return 0
        deployments = client.get("/v1/deployments")["data"]
    if args.json:
        show.as_json(console, deployments)
        return 0
    rows = [(item["id"], item["model"], item["status"], item.get("error")) for item in deployments]
    show.table(console, ("id", "model", "status", "error"), rows, "no deployments")
    return 0
