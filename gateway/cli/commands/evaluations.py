"""What models were measured at: as a table, of one dataset or task to compare them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import connect
from shared.settings import Settings

HELP = "list what was measured, to compare models"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", help="name of the model")
    parser.add_argument("--dataset", help="name or id of the dataset")
    parser.add_argument("--task", help="task of lm-evaluation-harness")
    parser.add_argument("--difference", nargs=2, metavar=("ID", "LESS"), help="of two results on the same rows")
    parser.add_argument("--limit", type=int, default=20, help="how many to list, newest first (default 20)")
    show.add_json(parser)


def run(args: Namespace, console: Console) -> int:
    filters = {"model": args.model, "dataset": args.dataset, "task": args.task}
    with connect(Settings.from_env()) as client:
        if args.difference:
            first, less = args.difference
            found = client.get(f"/v1/evaluations/{first}/difference", less=less)
            console.print(f"{found['model']} less {found['less_model']}: {show.measured(found['metrics'])}")
            return 0
        found = list(client.pages("/v1/evaluations", args.limit, **filters))
    if args.json:
        show.as_json(console, found)
        return 0
    rows = [
        (one["id"], one["model"], one["dataset"] or one["task"], (one["dataset_digest"] or "")[-8:], one["num_samples"],
         show.measured(one["metrics"]), show.moment(one["created_at"]))
        for one in found
    ]  # fmt: skip
    show.table(
        console, ("id", "model", "on", "digest", "samples", "measured", "when"), rows, "nothing was measured yet"
    )
    return 0
