"""List deployments, show one, its events or its replicas' logs; change, scale or stop it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.cli import flags, show
from gateway.cli.client import Client, connect
from shared.settings import Settings
from shared.spec import DeploySpec

HELP = "list, show, update, scale or stop deployments; list the events or logs of one"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list", *ACTIONS])
    parser.add_argument("deployment", nargs="?", metavar="DEPLOYMENT", help="id or name, for all but list")
    parser.add_argument("count", nargs="?", type=int, metavar="N", help="scale: how many replicas")
    parser.add_argument("--file", metavar="FILE", help="update: YAML or JSON of what changes (-: standard input)")
    parser.add_argument("--limit", type=int, default=50, help="events: how many, the newest (default 50)")
    show.add_json(parser)
    flags.add_spec(parser, DeploySpec, "[update DEPLOYMENT]")
    parser.set_defaults(parser=parser)


def run(args: Namespace, console: Console) -> int:
    if args.action != "list" and not args.deployment:
        args.parser.error(f"{args.action} needs the id or name of a deployment")
    if (args.action == "scale") != (args.count is not None):
        args.parser.error("scale needs the id or name of a deployment and a number")
    with connect(Settings.from_env()) as client:
        if args.action == "list":
            return _list(client, console, args)
        return ACTIONS[args.action](client, console, args)


def _list(client: Client, console: Console, args: Namespace) -> int:
    deployments = client.get("/v1/deployments")["data"]
    if args.json:
        show.as_json(console, deployments)
        return 0
    rows = [
        (item["id"], item["name"], item["model"], item["status"], _ready(item), _said(item)) for item in deployments
    ]  # fmt: skip
    show.table(console, ("id", "name", "model", "status", "replicas", "error"), rows, "no deployments")
    return 0


def _show(client: Client, console: Console, args: Namespace) -> int:
    show.as_json(console, client.get(_path(args)))
    return 0


def _events(client: Client, console: Console, args: Namespace) -> int:
    events = client.get(f"{_path(args)}/events", limit=args.limit, order="desc")["data"][::-1]
    if args.json:
        show.as_json(console, events)
        return 0
    for event in events:
        told = show.told({"message": event["message"], "zh": event["data"].get("zh")})
        console.print(f"{show.moment(event['created_at'])}  {event['level']:7}  {escape(told)}", soft_wrap=True)
    return 0


def _log(client: Client, console: Console, args: Namespace) -> int:
    for replica in client.get(_path(args))["replicas"]:
        if replica["log_tail"]:
            console.print(escape(f"==> {replica['id']}, {replica['status']}\n{replica['log_tail']}"), soft_wrap=True)
    return 0


def _scale(client: Client, console: Console, args: Namespace) -> int:
    return _changed(client.patch(_path(args), {"replicas": args.count}), console, args)


def _update(client: Client, console: Console, args: Namespace) -> int:
    return _changed(client.patch(_path(args), flags.read_spec(args.file, args, DeploySpec)), console, args)


def _stop(client: Client, console: Console, args: Namespace) -> int:
    client.delete(_path(args))
    console.print(f"stopping {args.deployment}")
    return 0


ACTIONS: Mapping[str, Callable[[Client, Console, Namespace], int]] = {
    "show": _show, "events": _events, "log": _log, "scale": _scale, "update": _update, "stop": _stop,
}  # fmt: skip


def _changed(deployment: dict[str, Any], console: Console, args: Namespace) -> int:
    if args.json:
        show.as_json(console, deployment)
        return 0
    rollout = deployment["rollout"] or {}
    told = f"; generation {rollout['generation']} comes up" if rollout.get("status") == "running" else ""
    wanted = f"{deployment['num_wanted']} replica(s) wanted"
    console.print(f"{deployment['id']}: {show.status(deployment['status'])}, {wanted}{told}", soft_wrap=True)
    return 0


def _path(args: Namespace) -> str:
    return f"/v1/deployments/{args.deployment}"


def _ready(deployment: Mapping[str, Any]) -> str:
    if deployment.get("host"):
        return f"on {deployment['host']}"
    return f"{sum(one['status'] == 'ready' for one in deployment['replicas'])}/{deployment['num_wanted']}"


def _said(deployment: Mapping[str, Any]) -> str:
    """What is wrong, or waited for."""
    rollout = deployment["rollout"] or {}
    taken_back = rollout.get("error") if rollout.get("status") == "rolled_back" else None
    return str(taken_back or deployment["error"] or deployment["waiting"] or "")
