"""`python -m trainer_worker.child.prepare <attempt folder>`: datasets to tokens, before any device is held.

The result lies below cache_dir under the digest of all that it depends on, so a second attempt, or another job on the
same data, finds it there. `prepared.json` in the attempt folder tells the training where. Old entries are not removed
here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shared import lengths, logs
from shared.attempt import Attempt
from trainer_worker.child import lean
from trainer_worker.child.startup import Startup, process_began

#: Raised when samples, or what is kept of them, come out differently for the same input.
VERSION = 4
#: Progress events closer together than this help nobody.
PROGRESS_SECONDS = 1.0
#: Between two looks whether another job is done with the same data.
WAIT_SECONDS = 0.2
PREPARED = "prepared.json"


class Stopped(Exception):
    """The job was paused or cancelled: there is nothing to keep of a preparation."""


@dataclass(kw_only=True)
class Tally:
    """What became of the rows of one part."""

    num_rows: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    num_learned: int = 0
    num_cut: int = 0
    num_dropped: int = 0
    #: Answers.
    num_rewritten: int = 0
    #: Of labelled ones.
    num_desirable: int = 0
    #: Why the first row was dropped.
    first_problem: str = ""
    lengths: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if name != "lengths"}
        return counts | lengths.summary(self.lengths)


def main(folder: Path) -> int:
    attempt, startup = Attempt(folder), Startup(process_began())
    try:
        prepare(attempt, startup)
    except Stopped:
        attempt.stopped(0)
    except Exception as error:
        attempt.fail(error)
        raise
    return 0


def prepare(attempt: Attempt, startup: Startup | None = None) -> None:
    """`startup` is that of a process of its own, in which what tokenizing does without is kept out."""
    # Imported here so that a broken environment is reported as a failed job, not as a crash.
    from shared import schema
    from shared.spec import TrainSpec

    run = attempt.run
    spec = schema.from_stored(TrainSpec, run["spec"])
    if startup is not None:
        lean.hide(lean.beside_preparation(spec))
    with lean.loading():
        from trainer_worker.child import doing, tokenizer

    startup = startup or Startup()
    startup.mark("imports")
    with doing.loading(run["base_name"]):
        loaded = tokenizer.load(run["model_path"], spec)
    encoder = tokenizer.encoder(loaded, spec)
    digest = tokenizer_digest(loaded)
    startup.mark("tokenizer")
    if spec.data.streaming and len(run["datasets"]) > 1 and spec.data.mix_strategy == "concat":
        text = "a stream reads datasets one after another: the first may be all that is read; interleave them"
        attempt.emit("finding", text, level="warning", field="mix_strategy")
    made = partial(part, attempt, spec, encoder, digest)
    places = {"train": made("train", run["datasets"])}
    places["eval"] = {name: made(f"eval {name}".strip(), sets) for name, sets in _validated(run, spec)}
    startup.mark("tokens")
    took = sum(startup.seconds.values())
    (attempt.folder / PREPARED).write_text(json.dumps(places | {"seconds": took, "ended": time.time()}))
    attempt.emit("phase_done", f"the data is ready after {took:.1f} s: {startup}", seconds=startup.seconds)


def _validated(run: Mapping[str, Any], spec: Any) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The datasets that a validation loss is told of, under its name; "": under none."""
    datasets = run.get("eval_datasets") or []
    if spec.data.eval_on_each_dataset:
        return [(dataset["name"], [dataset]) for dataset in datasets]
    return [("", datasets)] if datasets else []


def part(
    attempt: Attempt, spec: Any, encoder: Any, tokenizer_digest: str, name: str, datasets: Sequence[Mapping[str, Any]]
) -> str:
    """The folder of one part's tokens, made now or found."""
    from shared import stages
    from trainer_worker.child import data, tokens

    needed = data.need(spec, attempt.run["num_processes"]) if name == "train" else data.Need()
    key = _key(spec, encoder, tokenizer_digest, data.identity(datasets, spec, needed))
    place = Path(attempt.run["cache_dir"]) / "tokens" / key
    with _alone(attempt, place):
        found = tokens.exists(place) and not spec.data.overwrite_cache
        if not found:
            tally = Tally()
            samples = _samples(attempt, spec, encoder, datasets, needed, tally)
            tokens.write(place, samples, lambda: tally.as_dict() | {"end_id": encoder.end_id})
    store = tokens.TokenStore(place)
    _tell(attempt, spec, name, store.meta, found)
    if name == "train" and stages.get(spec.tuning.stage).rows == "labelled":
        _tell_balance(attempt, spec, store.meta)
    return str(place)


@contextmanager
def _alone(attempt: Attempt, place: Path) -> Iterator[None]:
    """Who needs the same tokens waits for who makes them; the kernel frees the lock on any death. Raises Stopped."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        while not _locked(lock.fileno()):
            _check(attempt)
            time.sleep(WAIT_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _samples(
    attempt: Attempt, spec: Any, encoder: Any, datasets: Sequence[Mapping[str, Any]], needed: Any, tally: Tally
) -> Iterator[Any]:
    from shared import stages
    from trainer_worker.child import data, encoding

    told, kind = time.monotonic(), stages.get(spec.tuning.stage).samples
    rows = data.read(datasets, spec, streams=needed != data.Need())
    encoded = encoding.encoded(rows, encoder, kind, spec.data.preprocessing_num_workers or 1)
    for made in _telling(encoded, datasets, tally):
        tally.num_rows += 1
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            _check(attempt)
            attempt.emit("progress", done=tally.num_rows, unit="rows")
        if made.problem:
            tally.num_dropped += 1
            tally.first_problem = tally.first_problem or f"row {tally.num_rows}: {made.problem}"
        for sample in made.samples:
            _count(tally, sample)
        yield from made.samples
        if needed.is_met(tally.num_rows - tally.num_dropped, tally.num_tokens):
            return


def _telling(encoded: Iterator[Any], datasets: Sequence[Mapping[str, Any]], tally: Tally) -> Iterator[Any]:
    """An error that nobody foresaw says at which row it came. Raises InvalidDataset, and what has its own reason."""
    from shared.errors import InvalidDataset

    try:
        yield from encoded
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        names = " and ".join(str(dataset["name"]) for dataset in datasets)
        text = f"row {tally.num_rows + 1} of {names} cannot be read: {type(error).__name__}: {error}"
        raise InvalidDataset(text, field="dataset") from error


def _count(tally: Tally, sample: Any) -> None:
    tally.num_samples += 1
    tally.num_tokens += len(sample.input_ids)
    tally.num_learned += sum(sample.supervised[1:])
    tally.num_cut += sample.was_cut
    tally.num_rewritten += sample.num_rewritten
    tally.num_desirable += sample.label is True
    tally.lengths.append(len(sample.input_ids))


def _tell(attempt: Attempt, spec: Any, name: str, stats: Mapping[str, Any], found: bool) -> None:
    """Statistics as an event; what is lost as warnings. Raises InvalidDataset when nothing is left."""
    from shared.errors import InvalidDataset

    if not stats["num_samples"]:
        raise InvalidDataset(f"no row can be trained on; {stats['first_problem']}", field="dataset")
    how = "found tokenized" if found else "tokenized"
    text = (
        f"{name}: {stats['num_samples']} samples, {stats['num_tokens']} tokens, {stats['num_learned']} learned ({how})"
    )
    attempt.emit("message", text, part=name, reused=found, **stats)
    if stats["num_dropped"]:
        text = f"{stats['num_dropped']} of {stats['num_rows']} rows were left out; {stats['first_problem']}"
        attempt.emit("finding", text, level="warning", field="dataset", num_rows=stats["num_dropped"])
    if stats["num_rewritten"]:
        text = f"{stats['num_rewritten']} earlier answers are not learned: the chat template changes them afterwards"
        attempt.emit("finding", text, level="warning", field="template", num_answers=stats["num_rewritten"])
    if stats["num_cut"]:
        share = 100 * stats["num_cut"] / stats["num_samples"]
        text = f"{stats['num_cut']} samples ({share:.1f} %) were cut to cutoff_len {spec.data.cutoff_len}"
        attempt.emit("finding", text, level="warning", field="cutoff_len", num_rows=stats["num_cut"])


def _tell_balance(attempt: Attempt, spec: Any, stats: Mapping[str, Any]) -> None:
    """Of labelled answers: https://arxiv.org/abs/2402.01306, Eq. 8, wants their weighted ratio between 1 and 4/3."""
    good, bad = stats["num_desirable"], stats["num_samples"] - stats["num_desirable"]
    if not good or not bad:
        text = f"every answer is labelled {'true' if good else 'false'}: there is nothing to tell apart"
        attempt.emit("finding", text, level="warning", field="dataset")
        return
    weights = spec.plugged["kto"]
    ratio = weights.kto_chosen_weight * good / max(weights.kto_rejected_weight * bad, 1e-9)
    if not 1 <= round(ratio, 2) <= 1.34:
        text = f"{good} answers are desirable, {bad} not: weighted, their ratio is {ratio:.2f}, 1 to 1.33 is advised"
        field, value = ("kto_rejected_weight", ratio) if ratio > 1 else ("kto_chosen_weight", 1 / max(ratio, 1e-9))
        attempt.emit("finding", f"{text}; set {field} to {getattr(weights, field) * value:.2f}", field=field)


def _check(attempt: Attempt) -> None:
    if attempt.wanted() != "run":
        raise Stopped


def _key(spec: Any, encoder: Any, tokenizer_digest: str, rows: Mapping[str, Any]) -> str:
    from shared import stages

    parts = {
        "version": VERSION,
        "rows": stages.get(spec.tuning.stage).samples,
        "tokenizer": tokenizer_digest,
        "read": rows,
        "stops": encoder.stops,
        "end_id": encoder.end_id,
        "values": encoder.values,
        "marked": encoder.marked,
        "ends_once": encoder.ends_once,
        "refused": encoder.refused,
        "train_on_prompt": encoder.train_on_prompt,
        "mask_history": encoder.mask_history,
        "cutoff_len": encoder.cutoff_len,
        "begin_ids": encoder.begin_ids,
        "whole_texts": encoder.whole_texts,
        "apart": encoder.apart,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Vocabulary, rules and template: all that decides ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = (rules, str(tokenizer.chat_template), json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "prepare")
    sys.exit(main(Path(sys.argv[1])))
