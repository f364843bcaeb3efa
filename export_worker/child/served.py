"""`python -m export_worker.child.served <attempt folder>`: vLLM loads what the export wrote, and answers as it must.

A phase of its own, run by the interpreter that has vLLM: merged and quantized files are served as a deployment would
serve them, and asked the held-out rows and prompts over HTTP. Then the export is published.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export_worker.child import answers
from export_worker.child.asked import Prompt
from export_worker.child.failed import VerificationFailed, raise_failed
from export_worker.child.publish import Found, publish
from export_worker.child.serving import Served, Serving
from export_worker.child.vllm_server import Client, NotServed, Place, serving
from export_worker.child.watch import Stopped, Watch
from shared import logs
from shared.attempt import Attempt
from shared.requirements import CPU
from shared.tongues import Text
from shared.vllm_arguments import Machine

#: As of the phase before: where a training runs on the same cores, they are the training's first.
NICENESS = 10
TITLES = {
    "merged": Text("Asking the merged files through vLLM"),
    "quantized": Text("Asking the quantized files through vLLM"),
}


def main(folder: Path) -> int:
    attempt = Attempt(folder)
    if not attempt.run["devices"]:
        os.nice(NICENESS)
    try:
        attempt.done(**serve(attempt, Watch(attempt)))
    except Stopped:
        attempt.stopped(0)
    except Exception as error:
        figures = error.figures if isinstance(error, VerificationFailed) else {}
        attempt.fail(error, **figures)
        raise
    return 0


def serve(attempt: Attempt, watch: Watch) -> dict[str, Any]:
    scratch = Path(attempt.run["scratch_dir"])
    told, found = Serving.load(scratch), Found.load(scratch)
    measured = {}
    for model in told.models:
        watch.phase(f"vllm_{model.name}", TITLES[model.name])
        measured[model.name] = _asked(told, model, _place(attempt, model.name), watch)
    vllm = {"proven": all(one["proven"] for one in measured.values()), **measured}
    if vllm["proven"] and len(measured) > 1:
        vllm["perplexity_ratio"] = _ratio(measured, told.max_perplexity_ratio)
    watch.end_phase()
    return publish(found.with_vllm(vllm), watch)


def _ratio(measured: Mapping[str, Mapping[str, Any]], most: float) -> float:
    """Perplexity of the quantized over the merged model, both through vLLM. Raises VerificationFailed"""
    ratio = math.exp(min(measured["quantized"]["loss"] - measured["merged"]["loss"], 700.0))
    # Written so that a NaN fails: no comparison with it is true.
    wrong = [] if ratio <= most else [f"perplexity is {ratio:.2f} times the merged model's (limit {most})"]
    raise_failed("the quantized files are too far from the merged ones through vLLM", wrong, measured)
    return ratio


def _place(attempt: Attempt, name: str) -> Place:
    run = attempt.run
    return Place(
        machine=Machine(
            gpus=[device for device in run["devices"] if device != CPU],
            cpu_kv_cache_gib=run["serving"]["cpu_kv_cache_gib"],
            cache_folder=Path(run["cache_dir"]) / "vllm",
        ),
        start_seconds=run["serving"]["start_seconds"],
        log=attempt.folder / "logs" / f"vllm-{name}.log",
    )


def _asked(told: Serving, model: Served, place: Place, watch: Watch) -> dict[str, Any]:
    """Figures, or why there are none. Raises VerificationFailed."""
    longest = max(len(one) for one in [*(s.input_ids for s in told.samples), *(p.ids for p in told.prompts)])
    try:
        with serving(
            Path(model.folder), place, watch, longest=longest, answer_tokens=told.answer_tokens,
            trust=told.trust_remote_code,
        ) as client:  # fmt: skip
            return {"proven": True, **ask(client, told, model, watch)}
    except NotServed as error:
        if told.is_required:
            raise
        text = "vLLM does not serve the {name} files here: {error}. They are published without that proof."
        watch.say(Text(text, name=model.name, error=error), level="warning")
        return {"proven": False, "why": str(error)}


def ask(client: Client, told: Serving, model: Served, watch: Watch) -> dict[str, Any]:
    """Figures of one model. Raises VerificationFailed, with them, when one is beyond its limit."""
    figures = {"num_prompts": len(told.prompts), "num_same_prompts": _same_prompts(client, told.prompts, watch)}
    losses: list[float] = []
    for number, sample in enumerate(told.samples, start=1):
        watch.progress(number, len(told.samples), "rows")
        losses += client.losses(sample.input_ids, sample.score_from)
    loss = sum(losses) / len(losses)
    given = []
    for sample in told.samples[: len(model.answers)]:
        watch.check()
        given.append(client.answer(sample.input_ids[: sample.answer_from]))
    compared, wrong = answers.compared(model.answers, given, told.max_answer_gap)
    figures |= {"loss": loss, "loss_reference": model.loss, "answers": compared, "texts": [one.text for one in given]}
    # Written so that a NaN fails: no comparison with it is true.
    if model.loss is not None and not abs(loss - model.loss) <= told.max_difference:
        wrong.append(f"its loss is {loss:.3f} instead of {model.loss:.3f} (limit {told.max_difference} nats per token)")
    raise_failed(f"the {model.name} files answer otherwise through vLLM", wrong, figures)
    return figures


def _same_prompts(client: Client, prompts: Sequence[Prompt], watch: Watch) -> int:
    """How many; all of them, or it raises VerificationFailed."""
    for number, prompt in enumerate(prompts, start=1):
        watch.progress(number, len(prompts), "prompts")
        ids = client.tokens(prompt.messages, prompt.tools)
        if ids == prompt.ids and number == 1 and not prompt.tools:
            ids = client.chat(prompt.messages)
        if ids != prompt.ids:
            text = f"prompt {number} has {len(ids)} other tokens than the {len(prompt.ids)} of the training"
            raise_failed("vLLM writes prompts otherwise", [text], {"prompt": prompt.ids, "served": ids}, "template")
    return len(prompts)


if __name__ == "__main__":
    logs.begin_child(Attempt(Path(sys.argv[1])), "export")
    sys.exit(main(Path(sys.argv[1])))
