"""Post an evaluation of a model on datasets and benchmark tasks: from a YAML (also LLaMA Factory's with do_predict),
from flags, or both. Follows the job unless told otherwise, and shows what was measured."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import flags, submit
from shared.spec import EvaluateSpec

HELP = "measure a model on datasets and tasks"


def add_arguments(parser: ArgumentParser) -> None:
    submit.add_arguments(parser)
    flags.add_spec(parser, EvaluateSpec, "[FILE.yaml]")


def run(args: Namespace, console: Console) -> int:
    return submit.run(args, console, "evaluate", EvaluateSpec)
