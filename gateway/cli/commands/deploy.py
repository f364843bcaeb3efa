"""Serve a model on vLLM, and wait until it answers (unless told otherwise)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.markup import escape

from gateway.cli import flags, show
from gateway.cli.client import FINISHED_DEPLOYMENT, connect, wait_deployment
from shared.settings import Settings
from shared.spec import DeploySpec

HELP = "serve a model"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("served", metavar="MODEL", help="name of the model in the catalog")
    parser.add_argument("--detach", action="store_true", help="do not wait until it is ready")
    show.add_json(parser)
    flags.add_spec(parser, DeploySpec, "MODEL")


def run(args: Namespace, console: Console) -> int:
    with connect(Settings.from_env()) as client:
        deployment = client.post("/v1/deployments", {"model": args.served} | flags.given(args))
        if not args.detach and deployment["status"] not in FINISHED_DEPLOYMENT:
            with console.status(f"starting {deployment['id']}"):
                deployment = wait_deployment(client, deployment["id"])
    if args.json:
        show.as_json(console, deployment)
    else:
        where = f", on the replicas of {deployment['host']}" if deployment.get("host") else ""
        console.print(f"{deployment['id']}: {show.status(deployment['status'])}{escape(where)}", soft_wrap=True)
        if deployment.get("placement"):
            console.print(escape(deployment["placement"]), soft_wrap=True)
        if deployment.get("error"):
            console.print(escape(str(deployment["error"])), soft_wrap=True)
    return 1 if deployment["status"] == "failed" else 0
