"""How much two evaluations on the same rows differ: sample by sample, which tells far smaller differences than the
errors of two numbers by themselves do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.services import Services
from shared import statistics
from shared.errors import InvalidRequest, NotFound
from shared.records import Evaluation
from shared.statistics import told

Lines = Sequence[dict[str, Any]]


class NotComparable(InvalidRequest):
    """The two evaluations did not read the same samples."""

    status, code = 422, "not_comparable"


def difference(services: Services, project_id: str, first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Of `first` less `second`, for each number that both have by sample. Raises NotComparable."""
    if first.dataset is None or (first.dataset, first.dataset_digest) != (second.dataset, second.dataset_digest):
        raise NotComparable("Evaluation {first!r} is on other rows than {second!r}", first=first.id, second=second.id)
    scores = [_lines(services, project_id, one, "scores") for one in (first, second)]
    answers = [_lines(services, project_id, one, "predictions") for one in (first, second)]
    found = _of_scores(*scores) | _of_answers(*answers)
    if not found:
        text = "Evaluations {first!r} and {second!r} have no samples in common: other rows, metrics or tokens"
        raise NotComparable(text, first=first.id, second=second.id)
    return found


def _of_scores(first: Lines, second: Lines) -> dict[str, float]:
    """Tokens must be the same ones: a loss by other tokens is another number."""
    if not first or [_size(line) for line in first] != [_size(line) for line in second]:
        return {}
    pairs = list(zip(first, second, strict=True))
    if "loss" not in first[0]:
        right = [float(a["chosen"] > a["rejected"]) - float(b["chosen"] > b["rejected"]) for a, b in pairs]
        return told(eval_accuracy=statistics.mean(right))
    counts = [line["num_tokens"] for line in first]
    losses = statistics.ratio([a["loss"] - b["loss"] for a, b in pairs], counts)
    right_tokens = statistics.ratio([float(a["num_right"] - b["num_right"]) for a, b in pairs], counts)
    return told(eval_loss=losses, eval_accuracy=right_tokens)


def _size(line: dict[str, Any]) -> Any:
    return line["sample"], line.get("num_tokens")


def _of_answers(first: Lines, second: Lines) -> dict[str, float]:
    if not first or [line["label"] for line in first] != [line["label"] for line in second]:
        return {}
    pairs = zip(first, second, strict=True)
    return told(exact_match=statistics.mean([_is_right(a) - _is_right(b) for a, b in pairs]))


def _is_right(line: dict[str, Any]) -> float:
    return float(line["predict"].strip() == line["label"].strip())


def _lines(services: Services, project_id: str, found: Evaluation, what: str) -> Lines:
    """Of the file that the job left; none where it left none, or it was deleted since."""
    by_dataset = services.store.jobs.get(project_id, found.job_id).result.get("by_dataset") or {}
    names = (name for name in (found.dataset, found.dataset_id) if name in by_dataset)
    file_id = next((by_dataset[name].get(what) for name in names), None)
    try:
        record = services.store.datasets.get(project_id, file_id) if file_id else None
    except NotFound:
        return []
    return [] if record is None else list(_read(services, record.uri))


def _read(services: Services, uri: str) -> Iterator[dict[str, Any]]:
    with services.artifacts.open(uri, "rb") as file:
        for line in file:
            yield json.loads(line)
