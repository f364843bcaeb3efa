"""Post an export: merge an adapter into its base, quantize, or both. From a YAML, from flags, or both. Follows the job
unless told otherwise."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import flags, submit
from shared.spec import ExportSpec

HELP = "merge and quantize a model"


def add_arguments(parser: ArgumentParser) -> None:
    submit.add_arguments(parser)
    flags.add_spec(parser, ExportSpec, "[FILE.yaml]")


def run(args: Namespace, console: Console) -> int:
    return submit.run(args, console, "export", ExportSpec)
