"""Rows on which models are compared: those that the training held out, written as it wrote them.

Where the training is known, its own encoder makes the ids (the template and wording of its spec, on the base's
tokenizer), and not the files that are about to be published: that those say the same is what has to be proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export_worker.child.asked import Prompt, Sample
from export_worker.child.rows import PROBES, choose_rows, encode, read_rows, render
from shared import stages, vocabulary, witness
from shared.conversation import Encoder, Unlearnable
from shared.rows import Row
from shared.spec import TrainSpec

#: Rows that are encoded to find those of the training again, at most.
MAX_SEARCHED = 20_000
WORDS = {
    "eval_dataset": "the evaluation data of the training",
    "val_size": "the rows that the training held out (val_size)",
    "dataset": "the training data: nothing was held out",
}
#: Rows looked at for each that is used: some hold nothing to score.
SPARE = 3
#: Tokens of a row that are compared; a longer one is read from shortly before its scored tokens.
MAX_TOKENS = 512
#: Of a plain text, tokens that a model is given to go on from.
NUM_BEGUN = 16
#: Prompts whose ids are compared.
NUM_PROMPTS = 16


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    samples: list[Sample]
    prompts: list[Prompt]
    #: Special tokens that end what was learned.
    ends: list[int]
    #: Where the rows come from, for people.
    rows_from: str
    #: Whether the ids are those of a training, or only those of the model's own template.
    is_trained: bool
    #: Rows of the training that were known again by their ids, and how many it had told of; None: of none.
    recognized: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What run.json tells of the training and its data."""

    #: Its spec; None where no training is known.
    spec: TrainSpec | None
    evaluated: Sequence[Mapping[str, Any]]
    trained: Sequence[Mapping[str, Any]]
    #: By what the training's rows are known again: {"from", "digests"}; None: it told of none.
    witnesses: Mapping[str, Any] | None = None
    #: Texts of the calibration, where no others are known.
    calibration: Sequence[Mapping[str, Any]]
    #: Folder of the tokenizer as it was before the training, or where it added tokens, as it published it.
    tokenizer: Path
    trust_remote_code: bool = False
    #: Jinja that is asked with where no training says how it was asked.
    template: str | None = None

    @property
    def choice(self) -> tuple[Sequence[Mapping[str, Any]], str]:
        if self.evaluated:
            return self.evaluated, "the evaluation data of the training"
        if self.trained:
            return self.trained, "the training data: nothing was held out"
        return self.calibration, "the calibration data"


def gather(known: Known, count: int) -> HeldOut:
    """So many rows, or as many as there are. Questions of our own where no data is known."""
    tokenizer = AutoTokenizer.from_pretrained(known.tokenizer, trust_remote_code=known.trust_remote_code)
    if known.spec is None and known.template:
        tokenizer.chat_template = known.template
    speaks = vocabulary.encoder(vocabulary.of_transformers(tokenizer), known.spec) if known.spec else None
    rows, where = _recognized(known, speaks, count), WORDS.get((known.witnesses or {}).get("from", ""), "")
    found = len(rows)
    if not rows:
        datasets, where = known.choice
        rows = choose_rows(datasets, count * SPARE)
    made = _learned(rows, speaks, known.spec) if speaks and known.spec else _plain(rows, tokenizer)
    samples = [sample for sample in made if sample.score_from < len(sample.input_ids)][:count]
    if not samples:
        rows, where = [Row(messages=[{"role": "user", "content": text}]) for text in PROBES], "built-in questions"
        samples = _plain(rows, tokenizer)[:count]
    return HeldOut(
        samples=[shortened(sample) for sample in samples],
        prompts=_prompts(rows, speaks, tokenizer),
        ends=_ends(samples, speaks),
        rows_from=where,
        is_trained=speaks is not None,
        recognized=(found, min(count, len(known.witnesses["digests"]))) if known.witnesses and speaks else None,
    )


def _recognized(known: Known, speaks: Encoder | None, count: int) -> list[Row]:
    """Rows that give the very ids that the training told of; none where it told of none."""
    if known.witnesses is None or known.spec is None or speaks is None:
        return []
    wanted, kind = set(known.witnesses["digests"]), stages.get(known.spec.tuning.stage).samples
    datasets = known.evaluated if known.witnesses["from"] == "eval_dataset" else known.trained
    found = []
    for row in islice(read_rows(datasets), MAX_SEARCHED):
        with suppress(Unlearnable):
            if (told := witness.digest(speaks.samples(row, kind)[0].input_ids)) in wanted:
                wanted.remove(told)
                found.append(row)
        if len(found) == count or not wanted:
            break
    return found


def _learned(rows: Iterable[Row], speaks: Encoder, spec: TrainSpec) -> list[Sample]:
    """As the training encodes them; of a pair the better answer. Rows of which nothing is learned are left out."""
    found = []
    for row in rows:
        try:
            sample = speaks.samples(row, stages.get(spec.tuning.stage).samples)[0]
        except Unlearnable:
            continue
        found.append(as_sample(sample.input_ids, sample.supervised))
    return found


def as_sample(ids: Sequence[int], learned: Sequence[bool | int]) -> Sample:
    """The last stretch that is learned, with all before it. Where nothing is learned, or all, every token is scored."""
    if not any(learned):
        return Sample(input_ids=list(ids), score_from=1, answer_from=len(ids))
    last = max(place for place, mark in enumerate(learned) if mark)
    start = max((place + 1 for place in range(last) if not learned[place]), default=0)
    return Sample(
        input_ids=list(ids[: last + 1]), score_from=max(1, start), answer_from=start or min(NUM_BEGUN, last + 1)
    )


def _plain(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    return [render(tokenizer, row, MAX_TOKENS) for row in rows]


def shortened(sample: Sample) -> Sample:
    start = max(0, sample.score_from - MAX_TOKENS // 2)
    return Sample(
        input_ids=sample.input_ids[start : start + MAX_TOKENS],
        score_from=sample.score_from - start,
        answer_from=min(sample.answer_from - start, MAX_TOKENS),
    )


def _prompts(rows: Iterable[Row], speaks: Encoder | None, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Of conversations; a prompt that the training cuts is served whole, and left out."""
    if speaks is None and not tokenizer.chat_template:
        return []
    found = []
    for row in rows:
        if not row.messages or len(found) == NUM_PROMPTS:
            continue
        asked = row.messages[:-1] if row.messages[-1]["role"] == "assistant" else row.messages
        if not asked:
            continue
        made = speaks.samples(row, "prompt")[0] if speaks else None
        if made is None or not made.was_cut:
            ids = made.input_ids if made else encode(tokenizer, asked, row.tools, prompt=True)
            found.append(Prompt(messages=asked, tools=row.tools, ids=list(ids)))
    return found


def _ends(samples: Sequence[Sample], speaks: Encoder | None) -> list[int]:
    """Tokens at which rows end that are special ones; a text that was cut ends anywhere."""
    if speaks is None:
        return []
    stops = {ids[0] for stop in speaks.stops if len(ids := speaks.encode(stop)) == 1} | {speaks.end_id}
    return sorted({sample.input_ids[-1] for sample in samples} & stops)
