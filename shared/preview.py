"""`python -m shared.preview`: what a training would read of a dataset, and how long its samples are.

A process of its own, because chat templates are programs of strangers and a tokenizer takes memory: one order as JSON
on standard input, one answer on standard output. It uses the very encoder of the training. Rows are measured until
they are all seen or the time is up; which it was is told.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from shared import dataset, lengths, schema, stages, vocabulary
from shared.conversation import Encoder, Sample, Unlearnable
from shared.errors import Complaint, InvalidSpec, TunesmithError, Unavailable
from shared.layout import Layout
from shared.rows import Row
from shared.spec import TrainSpec
from shared.vocabulary import Vocabulary

#: Rows that are measured; of larger datasets every n-th.
MAX_MEASURED = 2_000
#: More than any row has, to see how long it is when nothing is cut.
MAX_TOKENS = 2**40
#: For reading and measuring rows.
SECONDS = 8.0
#: Address space of the process, bytes: the largest vocabularies take about one.
MAX_MEMORY_BYTES = 6 * 1024**3


def ask(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one preview. Raises InvalidSpec for what the model or the data lack, Unavailable when it takes too long."""
    command = [sys.executable, "-P", "-m", "shared.preview"]
    try:
        done = subprocess.run(
            command, input=json.dumps(order).encode(), capture_output=True, timeout=4 * SECONDS, check=False
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unavailable("the preview needs too much memory or time: ask for fewer rows") from error
    if "error" in answer:
        wrong = answer["error"]
        field = wrong["field"] or "model"
        complaint = Complaint(field=field, message=wrong["message"], code=wrong["code"])
        raise InvalidSpec(f"{field} {wrong['message']}", complaints=[complaint])
    return answer


@dataclass(kw_only=True)
class Tally:
    """What was seen of the rows that are measured."""

    lengths: list[int] = field(default_factory=list)
    num_tokens: int = 0
    num_learned: int = 0
    num_cut: int = 0
    #: Samples of which no token of an answer is left.
    num_unanswered: int = 0
    num_unusable: int = 0

    def as_dict(self) -> dict[str, Any]:
        count = max(1, len(self.lengths))
        return {
            "num_rows": len(self.lengths),
            **lengths.summary(self.lengths),
            "share_cut": round(self.num_cut / count, 4),
            "share_unanswered": round(self.num_unanswered / count, 4),
            "share_learned": round(self.num_learned / max(1, self.num_tokens), 4),
            "num_unusable": self.num_unusable,
        }


def preview(order: Mapping[str, Any]) -> dict[str, Any]:
    spec = schema.from_stored(TrainSpec, order["spec"])
    known = vocabulary.read(Path(order["model_folder"]))
    made = vocabulary.encoder(known, spec)
    kind = stages.get(spec.tuning.stage).samples
    wanted, shown, tally = set(order["rows"]), [], Tally()
    stride = max(1, (order["num_rows"] or 0) // MAX_MEASURED)
    deadline, complete = time.monotonic() + SECONDS, True
    layout, container = Layout.from_record(order["format"], order["columns"]), order["columns"].get("container")
    for index, row in enumerate(dataset.rows(Path(order["path"]), layout, container)):
        if index in wanted:
            wanted.discard(index)
            shown.append({"row": index, **_shown(made, known, row, kind)})
        if time.monotonic() > deadline:
            complete = False
            if not wanted or time.monotonic() > deadline + SECONDS:
                break
        elif index % stride == 0:
            _measure(made, row, kind, tally)
    return {"rows": shown, "lengths": {**tally.as_dict(), "every": stride, "complete": complete}}


def _measure(made: Encoder, row: Row, kind: str, tally: Tally) -> None:
    try:
        samples = replace(made, cutoff_len=MAX_TOKENS).samples(row, kind)
    except TunesmithError:
        tally.num_unusable += 1
        return
    sizes = [len(sample.input_ids) for sample in samples]
    tally.lengths += sizes
    if max(sizes) > made.cutoff_len and not made.whole_texts:
        tally.num_cut += len(samples)
        try:
            samples = made.samples(row, kind)
        except Unlearnable:
            tally.num_unanswered += len(samples)
            return
    tally.num_tokens += sum(len(sample.input_ids) for sample in samples)
    tally.num_learned += sum(sum(sample.supervised) for sample in samples)


def _shown(made: Encoder, known: Vocabulary, row: Row, kind: str) -> dict[str, Any]:
    """The samples of a row as the model gets them (of a pair the better first), or why it cannot be trained on."""
    try:
        return {"samples": [_sample(known, sample) for sample in made.samples(row, kind)]}
    except TunesmithError as error:
        return {"samples": [], "problem": error.message}


def _sample(known: Vocabulary, sample: Sample) -> dict[str, Any]:
    return {
        "text": known.decode(sample.input_ids),
        "input_ids": sample.input_ids,
        "learned": sample.supervised,
        "segments": list(_segments(known, sample)),
        "num_tokens": len(sample.input_ids),
        "num_learned": sum(sample.supervised),
        "was_cut": sample.was_cut,
        "num_rewritten": sample.num_rewritten,
        "label": sample.label,
    }


def _segments(known: Vocabulary, sample: Sample) -> Iterator[dict[str, Any]]:
    """Runs of tokens that are learned, and that are not."""
    for learned, run in groupby(zip(sample.supervised, sample.input_ids, strict=True), key=lambda pair: pair[0]):
        ids = [token for _, token in run]
        yield {"text": known.decode(ids), "learned": learned, "num_tokens": len(ids)}


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(4 * SECONDS), int(4 * SECONDS)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        answer = preview(order)
    except TunesmithError as error:
        answer = {"error": {"message": error.message, "field": error.field, "code": error.code}}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
