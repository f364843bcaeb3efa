"""An evaluation from its prepared data to its numbers: each dataset's own answers, the model's answers, then tasks.

Every sample, answer and task leaves a line (records.py); numbers are computed from lines alone, so that what was done
before a pause or a death is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from shared import schema
from shared.attempt import Attempt
from shared.spec import EvaluateSpec, TrainSpec
from shared.statistics import mean
from trainer_worker.child import datasets, tokenizer
from trainer_worker.child.context import Context
from trainer_worker.child.evaluation import generation, loading, scoring, similarity
from trainer_worker.child.evaluation.loading import Loaded
from trainer_worker.child.evaluation.records import Records
from trainer_worker.child.prepare import PREPARED
from trainer_worker.child.tokens import TokenStore

TASKS = "tasks"
#: As LF calls the file; of several datasets each has its own.
PREDICTIONS = "generated_predictions.jsonl"
LINE = ("prompt", "predict", "label")
#: What was measured of each sample, so that two models can be compared on the same ones.
SCORES = "scores.jsonl"


class Evaluation:
    """What the parts share; the model is loaded when the first of them has something to do."""

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self.spec: EvaluateSpec = schema.from_stored(EvaluateSpec, attempt.run["spec"])
        self.training: TrainSpec = self.spec.as_training()
        self.places: list[dict[str, Any]] = json.loads((attempt.folder / PREPARED).read_text())

    @cached_property
    def context(self) -> Context:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        return Context(attempt=self.attempt, spec=self.training, rank=0, num_processes=1, device=device)

    @cached_property
    def loaded(self) -> Loaded:
        self.context.emit("message", f"Loading {self.attempt.run['model_name']}")
        return loading.load(self.context, self.spec)

    @cached_property
    def items(self) -> list[datasets.Items | None]:
        """Of each dataset, as a validation has them."""
        stores = (TokenStore(Path(place["samples"])) if place["samples"] else None for place in self.places)
        count = partial(datasets.num_rows, self.training)
        return [
            None if store is None else datasets.items(self.training, store, range(count(store))) for store in stores
        ]

    @cached_property
    def prompts(self) -> list[list[dict[str, Any]]]:
        return [generation.read(Path(place["prompts"])) if place["prompts"] else [] for place in self.places]

    @property
    def total(self) -> int:
        scored = sum(len(items) for items in self.items if items is not None)
        return scored + sum(map(len, self.prompts)) + len(self.spec.benchmarks.tasks)


def evaluate(attempt: Attempt) -> dict[str, Any]:
    """The data of the outcome `done`. Raises Stopped."""
    evaluation = Evaluation(attempt)
    records = Records(attempt, evaluation.total)
    records.heed()
    with torch.no_grad():
        for index in range(len(evaluation.places)):
            score(evaluation, records, index)
            write(evaluation, records, index)
        for name in evaluation.spec.benchmarks.tasks:
            ask(evaluation, records, name)
    return result(evaluation, records)


def score(evaluation: Evaluation, records: Records, index: int) -> None:
    """How probable the model finds the answers of one dataset."""
    items, part, size = evaluation.items[index], scored(index), evaluation.spec.measuring.per_device_eval_batch_size
    if items is None or len(records.of(part)) >= len(items):
        return
    rate = scoring.scorer(evaluation.loaded, evaluation.spec.data.stage)
    for places, batch in scoring.batches(items, size, len(records.of(part))):
        lines = scoring.halving(rate, batch)
        records.add(part, [{"sample": place, **line} for place, line in zip(places, lines, strict=True)])


def write(evaluation: Evaluation, records: Records, index: int) -> None:
    """The model's own answers to the prompts of one dataset."""
    prompts, part, size = (
        evaluation.prompts[index],
        written(index),
        evaluation.spec.measuring.per_device_eval_batch_size,
    )
    if len(records.of(part)) >= len(prompts):
        return
    encoder = tokenizer.encoder(evaluation.loaded.tokenizer, evaluation.training)
    writer: Callable[[Sequence[Any]], list[Any]] = generation.Writer(evaluation.loaded, evaluation.spec, encoder)
    for start in range(len(records.of(part)), len(prompts), size):
        records.add(part, scoring.halving(writer, prompts[start : start + size]))


def ask(evaluation: Evaluation, records: Records, name: str) -> None:
    """One task; a stop in its middle starts it again."""
    if any(line["asked"] == name for line in records.of(TASKS)):
        return
    from trainer_worker.child.evaluation import tasks  # takes seconds

    own = evaluation.loaded.tokenizer
    if not evaluation.spec.benchmarks.apply_chat_template:
        own = tokenizer.own(evaluation.attempt.run["model_path"], evaluation.training)
    found = tasks.measure(evaluation.attempt, evaluation.spec, evaluation.loaded, own, name, records.heed)
    records.add(TASKS, [{"asked": name, "results": found}])


def result(evaluation: Evaluation, records: Records) -> dict[str, Any]:
    """By dataset, over all datasets, and by task; the answers go to files of the output."""
    spec, found = evaluation.spec, {}
    for index, place in enumerate(evaluation.places):
        lines, answers = records.of(scored(index)), records.of(written(index))
        found[place["name"]] = {"metrics": measured(spec, lines, answers), "num_samples": len(lines or answers)}
        output, apart = Path(evaluation.attempt.run["output_dir"]), f"{index}." if len(evaluation.places) > 1 else ""
        if lines:
            found[place["name"]]["scores"] = f"{apart}{SCORES}"
            save(output / f"{apart}{SCORES}", sorted(lines, key=lambda line: line["sample"]))
        if answers:
            found[place["name"]]["predictions"] = f"{apart}{PREDICTIONS}"
            # In the order of the data and with LF's members.
            told = ({name: line[name] for name in LINE} for line in sorted(answers, key=lambda line: line["row"]))
            save(output / f"{apart}{PREDICTIONS}", told)
    indices = range(len(evaluation.places))
    together = [[line for index in indices for line in records.of(part(index))] for part in (scored, written)]
    tasks = [line for asked in records.of(TASKS) for line in asked["results"]]
    return {"metrics": measured(spec, *together), "datasets": found, "tasks": tasks}


def measured(spec: EvaluateSpec, lines: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, float]:
    """Only what was asked for."""
    found: dict[str, float] = scoring.measured(lines, spec.data.stage) if lines else {}
    wanted = {"eval_loss": "loss", "perplexity": "perplexity", "eval_accuracy": "accuracy"}
    left_out = {
        name
        for key, metric in wanted.items()
        if metric not in spec.measuring.metrics
        for name in (key, f"{key}_stderr")
    }
    found = {name: value for name, value in found.items() if name not in left_out}
    if answers:
        found |= similarity.measure(answers, spec.measuring.metrics)
        found["num_tokens_per_answer"] = mean([line["num_tokens"] for line in answers])[0]
        # Above nothing: max_new_tokens cut answers off, and what they are compared by is too low.
        found["share_unfinished"] = mean([float(not line["is_finished"]) for line in answers])[0]
    return found


def save(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def scored(index: int) -> str:
    return f"scores-{index}"


def written(index: int) -> str:
    return f"answers-{index}"
