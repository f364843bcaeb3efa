"""`python -m trainer_worker.child.evaluation.prepare <attempt folder>`: rows to tokens, before any device is held.

Samples come from the same cache as a training's; prompts are written beside run.json. Tasks are loaded once here, so
that one whose data is not at hand is told at once. `prepared.json` says where everything lies.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import logs
from shared.attempt import Attempt
from trainer_worker.child import lean
from trainer_worker.child.prepare import PREPARED, PROGRESS_SECONDS, Stopped


def main(folder: Path) -> int:
    attempt = Attempt(folder)
    try:
        prepare(attempt, alone=True)
    except Stopped:
        attempt.stopped(0)
    except Exception as error:
        attempt.fail(error)
        raise
    return 0


def prepare(attempt: Attempt, *, alone: bool = False) -> None:
    """`alone`: in a process of its own, in which what tokenizing does without is kept out."""
    # Imported here so that a broken environment is reported as a failed job, not as a crash.
    from shared import schema
    from shared.spec import EvaluateSpec

    spec = schema.from_stored(EvaluateSpec, attempt.run["spec"])
    if alone and not spec.benchmarks.tasks:
        lean.hide(lean.beside_preparation(spec.as_training()))
    if spec.benchmarks.tasks:
        from trainer_worker.child.evaluation import tasks  # takes seconds

        tasks.check(attempt, spec)
    places = _datasets(attempt, spec) if spec.data.eval_dataset else []
    (attempt.folder / PREPARED).write_text(json.dumps(places))
    attempt.emit("phase_done", "the data is ready")


def _datasets(attempt: Attempt, spec: Any) -> list[dict[str, Any]]:
    """Of each dataset: where its samples lie, and where its prompts; None: not wanted."""
    from trainer_worker.child import prepare, tokenizer

    training = spec.as_training()
    loaded = tokenizer.load(attempt.run["model_path"], training)
    encoder = tokenizer.encoder(loaded, training)
    digest = prepare.tokenizer_digest(loaded)
    places = []
    for index, dataset in enumerate(attempt.run["eval_datasets"]):
        name = dataset["name"]
        place = {"name": name, "samples": None, "prompts": None}
        if spec.measures_likelihood():
            place["samples"] = prepare.part(attempt, training, encoder, digest, f"eval {name}", [dataset])
        if spec.generates():
            place["prompts"] = str(attempt.folder / f"prompts-{index}.jsonl")
            _write_prompts(attempt, training, encoder, dataset, Path(place["prompts"]))
        places.append(place)
    return places


def _write_prompts(attempt: Attempt, spec: Any, encoder: Any, dataset: Mapping[str, Any], path: Path) -> None:
    """What the model is asked, and what the data answers. Raises InvalidDataset when no row can be asked."""
    from shared.errors import InvalidDataset, TunesmithError
    from trainer_worker.child import data

    told, num_dropped, num_cut, problem, number = time.monotonic(), 0, 0, "", 0
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(data.read([dataset], spec, streams=False), start=1):
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                if attempt.wanted() != "run":
                    raise Stopped
                attempt.emit("progress", done=number, unit="rows")
            try:
                sample = encoder.prompt(row)
            except TunesmithError as error:
                num_dropped, problem = num_dropped + 1, problem or f"row {number}: {error.message}"
                continue
            num_cut += sample.was_cut
            line = {"row": number, "input_ids": sample.input_ids, "label": _label(row.messages[-1])}
            file.write(json.dumps(line) + "\n")
    if num_dropped == number:
        raise InvalidDataset(f"no row can be asked; {problem or 'there is none'}", field="eval_dataset")
    if num_dropped:
        text = f"{num_dropped} of {number} rows were left out; {problem}"
        attempt.emit("finding", text, level="warning", field="eval_dataset", num_rows=num_dropped)
    if num_cut:
        text = f"{num_cut} prompts were cut to cutoff_len {spec.data.cutoff_len}"
        attempt.emit("finding", text, level="warning", field="cutoff_len", num_rows=num_cut)


def _label(message: Mapping[str, Any]) -> str:
    """The data's own answer; one that only calls tools, as JSON."""
    text = str(message.get("content") or "").strip()
    calls = message.get("tool_calls")
    return json.dumps(calls, ensure_ascii=False) if calls and not text else text


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "prepare")
    sys.exit(main(Path(sys.argv[1])))
