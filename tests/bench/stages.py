"""`make stages`: every stage trains SmolLM2-135M for a few steps through the API; a table of what came of it.

The rows are the demo's facts: as texts, conversations, pairs of the right answer and that to another question, and
answers labelled right or wrong. A platform that runs already is used, else one is started for the time of the run.
Reward models made here score stage ppo. `--only NAME` runs one stage, `--steps N` says how long, `--out FILE` keeps
the figures as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.cli.client import Client, follow
from gateway.demo import base
from gateway.demo.platform import Platform
from shared import interpreters
from shared.errors import TunesmithError
from shared.settings import Settings

FACTS = Path(__file__).resolve().parents[2] / "gateway" / "demo" / "facts.jsonl"
#: The wrong answer of a pair is that to the question so many rows on, or the next that is another.
APART = 37
COMMON = {
    "model_name_or_path": base.NAME, "finetuning_type": "lora", "lora_rank": 8, "bf16": True, "cutoff_len": 256,
    "per_device_train_batch_size": 4, "max_steps": 24, "logging_steps": 2, "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1, "save_strategy": "no", "seed": 42,
}  # fmt: skip
#: What each stage learns from, and what it is told besides; rates of LF's examples or above: the runs are short.
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "pt": ("texts", {"learning_rate": 1e-3}),
    "sft": ("messages", {"learning_rate": 1e-3}),
    "rm": ("pairs", {"learning_rate": 5e-4, "val_size": 0.2, "suffix": "bench-rm"}),
    "dpo": ("pairs", {"learning_rate": 1e-3, "val_size": 0.2}),
    "dpo simpo": ("pairs", {"learning_rate": 1e-3, "pref_loss": "simpo", "pref_beta": 2.0, "val_size": 0.2}),
    "dpo full": ("pairs", {"learning_rate": 1e-5, "finetuning_type": "full", "val_size": 0.2}),
    "kto": ("labelled", {"learning_rate": 1e-3, "val_size": 0.2}),
    "ppo": ("messages", {
        "learning_rate": 1e-5, "reward_model_type": "lora", "max_new_tokens": 16, "top_k": 0, "top_p": 1.0,
        "temperature": 1.0, "max_steps": 4, "logging_steps": 1,
    }),
}  # fmt: skip
#: Columns of the table besides those of every stage, in this order.
SHOWN = (
    "eval_loss", "accuracy", "eval_accuracy", "rewards/accuracies", "eval_rewards/accuracies", "rewards/margins",
    "eval_rewards/margins", "kl", "reward", "objective/kl",
)  # fmt: skip


class BenchFailed(TunesmithError):
    """A training of the bench did not succeed."""


def main() -> int:
    parser = ArgumentParser(prog="make stages", description=__doc__)
    parser.add_argument("--only", choices=STAGES, action="append", help="run this stage; may be given several times")
    parser.add_argument("--steps", type=int, default=COMMON["max_steps"], help="of each training but that of ppo")
    parser.add_argument("--out", type=Path, help="write the figures to this file as JSON")
    args = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    settings = Settings.from_env()
    platform = Platform(settings)
    get_base(settings)
    try:
        with platform.ensure() as client:
            found = run(args, client, console)
    finally:
        if platform.is_ours:
            platform.stop()
    if args.out:
        args.out.write_text(json.dumps(found, indent=2))
    return 0


def run(args: Namespace, client: Client, console: Console) -> list[dict[str, Any]]:
    register(client)
    upload(client)
    found: list[dict[str, Any]] = []
    for name in args.only or STAGES:
        reward_model = next((one["model"] for one in found if one["name"] == "rm"), None)
        made = measure(client, name, args.steps, reward_model)
        if made is not None:
            found.append(made)
            console.print(line(made))
    console.print(table(found))
    return found


def get_base(settings: Settings) -> None:
    import_dir = settings.home / "import"
    if not base.is_there(import_dir):
        with base.workplace(settings.home) as folder:
            work = Path(folder)
            base.convert(base.download(work), work, import_dir, interpreters.trainer(settings))


def register(client: Client) -> None:
    if base.NAME not in {model["id"] for model in client.get("/v1/models")["data"]}:
        client.post("/v1/models", {"name": base.NAME, "model_name_or_path": base.NAME})


def upload(client: Client) -> None:
    with TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        for kind, rows in datasets().items():
            path = Path(folder) / f"{kind}.jsonl"
            path.write_text("\n".join(json.dumps(row) for row in rows))
            client.upload("/v1/datasets", path, {"name": f"bench-{kind}"})


def datasets() -> dict[str, list[dict[str, Any]]]:
    facts = [[message["content"] for message in json.loads(line)["messages"]] for line in FACTS.open()]
    answers = [answer for _, answer in facts]
    told = [(fact, another(answers, place)) for place, fact in enumerate(facts)]
    return {
        "texts": [{"text": f"{question} {answer}"} for question, answer in facts],
        "messages": [{"instruction": question, "output": answer} for question, answer in facts],
        "pairs": [{"instruction": q, "chosen": a, "rejected": other} for (q, a), other in told],
        "labelled": [
            {"instruction": q, "output": a if right else other, "kto_tag": right}
            for place, ((q, a), other) in enumerate(told)
            for right in [place % 2 == 0]
        ],
    }


def another(answers: list[str], place: int) -> str:
    turned = (answers[(place + APART + n) % len(answers)] for n in range(len(answers)))
    return next(answer for answer in turned if answer != answers[place])


def measure(client: Client, name: str, steps: int, reward_model: str | None) -> dict[str, Any] | None:
    """One training; None where it needs a reward model and none was made. Raises BenchFailed."""
    rows, own = STAGES[name]
    body = {"max_steps": steps, "eval_steps": steps} | own
    stage = name.split()[0]
    if stage == "ppo":
        if reward_model is None:
            return None
        body = body | {"reward_model": reward_model}
    began = time.monotonic()
    job = client.post("/v1/jobs", {**COMMON, "stage": stage, "dataset": f"bench-{rows}", **body})
    metrics = [event["data"] for event in follow(client, job["id"]) if event["type"] == "metrics"]
    done = client.get(f"/v1/jobs/{job['id']}")
    if done["status"] != "succeeded":
        raise BenchFailed(f"{name}: {done['id']} is {done['status']}: {(done.get('error') or {}).get('message')}")
    losses = [data["loss"] for data in metrics if "loss" in data]
    return {
        "name": name,
        "model": done["result"]["model"],
        "steps": done["result"]["num_steps"],
        "seconds": round(time.monotonic() - began, 1),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "tokens_per_second": done["result"]["metrics"]["tokens_per_second"],
        "metrics": done["result"]["metrics"],
        "first": next((data for data in metrics if "loss" in data), {}),
    }


def line(made: dict[str, Any]) -> str:
    return f"{made['name']}: {made['seconds']} s, loss {made['first_loss']:.3f} -> {made['last_loss']:.3f}"


def table(found: list[dict[str, Any]]) -> Table:
    made = Table(title=f"{base.NAME}, LoRA unless said, batches of {COMMON['per_device_train_batch_size']}")
    for name in ("stage", "steps", "s", "tok/s", "loss", "measured (first -> last)"):
        made.add_column(name)
    for one in found:
        cells = (one["name"], str(one["steps"]), str(one["seconds"]), f"{one['tokens_per_second']:.0f}")
        made.add_row(*cells, f"{one['first_loss']:.3f} -> {one['last_loss']:.3f}", ", ".join(measured(one)))
    return made


def measured(one: dict[str, Any]) -> Iterator[str]:
    for name in SHOWN:
        if name in one["metrics"]:
            before = f"{one['first'][name]:.2f} -> " if name in one["first"] else ""
            yield f"{name} {before}{one['metrics'][name]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
