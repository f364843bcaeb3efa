"""Post a training: a LLaMA Factory YAML as it is, changed or completed by flags named like its fields. Follows the job
unless told otherwise."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import flags, submit
from shared.spec import TrainSpec

HELP = "train a model"


def add_arguments(parser: ArgumentParser) -> None:
    submit.add_arguments(parser)
    flags.add_spec(parser, TrainSpec, "[FILE.yaml]")


def run(args: Namespace, console: Console) -> int:
    return submit.run(args, console, "train", TrainSpec)
