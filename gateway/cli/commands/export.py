"""Post an export: merge an adapter into its base, quantize, or both. From a YAML, from flags, or both. Follows the job
unless told otherwise."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import flags, submit
from gateway.cli.commands import plan
from shared.spec import ExportSpec

HELP = "merge and quantize a model"


def add_arguments(parser: ArgumentParser) -> None:
    submit.add_arguments(parser)
    told = "only say what it would take: size of each format, disk, memory, time, who serves it"
    parser.add_argument("--plan", action="store_true", help=told)
    flags.add_spec(parser, ExportSpec, "[FILE.yaml]")


def run(args: Namespace, console: Console) -> int:
    if args.plan:
        plan.ask(console, submit.read(args, "export", ExportSpec), as_json=args.json)
        return 0
    return submit.run(args, console, "export", ExportSpec)
