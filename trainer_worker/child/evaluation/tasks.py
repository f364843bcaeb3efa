"""Benchmark tasks by lm-evaluation-harness, whose HFLM asks our loaded model.

Tasks are those of the administrator's folder (YAML files; paths in their `data_files` start there) and, where the Hub
is on, all that the library ships. It knows nothing of pauses: `Heeding` looks between its batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from shared.attempt import Attempt
from shared.errors import InvalidSpec
from shared.nearest import did_you_mean
from shared.spec.evaluate import EvaluateSpec
from trainer_worker.child.evaluation.loading import Loaded

#: Of the errors of means that have no formula.
NUM_RESAMPLES = 1000
#: How the library marks a metric that no filter was applied for.
NO_FILTER = ",none"


class Heeding(HFLM):
    """The library offers no other place between two batches than these two methods."""

    def __init__(self, loaded: Loaded, heed: Callable[[], None], **rest: Any):
        super().__init__(pretrained=loaded.model, **rest)
        self._heed, self._loaded = heed, loaded

    def _model_call(self, *arguments: Any, **named: Any) -> Any:
        self._heed()
        with self._loaded.autocast():
            return super()._model_call(*arguments, **named)

    def _model_generate(self, *arguments: Any, **named: Any) -> Any:
        self._heed()
        with self._loaded.autocast():
            return super()._model_generate(*arguments, **named)


def check(attempt: Attempt, spec: EvaluateSpec) -> None:
    """Load every task with its data. Raises InvalidSpec for one that is unknown or whose data is not at hand."""
    manager = _manager(attempt.run)
    for name in spec.benchmarks.tasks:
        if name not in manager.all_tasks:
            text = f"names {name!r}: there is no such task{did_you_mean(name, manager.all_tasks)}"
            raise InvalidSpec(text, field="tasks")
        try:
            with _at_their_folder(attempt.run):
                manager.load([name])
        except Exception as error:  # the edge to the library and its readers of data, which raise anything
            where = "" if attempt.run["hub"] else "; the Hub is switched off (TUNESMITH_HUB)"
            text = f"names {name!r}, whose data is not at hand ({type(error).__name__}: {str(error)[:500]}){where}"
            raise InvalidSpec(text, field="tasks") from error


def measure(
    attempt: Attempt, spec: EvaluateSpec, loaded: Loaded, tokenizer: Any, name: str, heed: Callable[[], None]
) -> list[dict[str, Any]]:
    """One line for the task; for a group whose members have no common number, one for each member."""
    given = spec.benchmarks
    model = Heeding(loaded, heed, tokenizer=tokenizer, batch_size=spec.measuring.per_device_eval_batch_size)
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"), spec.measuring.seed)
    with _at_their_folder(attempt.run):
        found: Any = simple_evaluate(
            model=model,
            tasks=[name],
            num_fewshot=given.n_shot,
            limit=given.limit,
            task_manager=_manager(attempt.run),
            apply_chat_template=given.apply_chat_template,
            bootstrap_iters=NUM_RESAMPLES,
            fewshot_random_seed=spec.measuring.seed,
            log_samples=False,
            **seeds,
        )
    whole = metrics_of(found["results"].get(name, {}))
    results = {name: whole} if whole else {part: metrics_of(own) for part, own in found["results"].items()}
    return [
        {"task": part, "metrics": own, "num_samples": _num_samples(found, part), "n_shot": found["n-shot"].get(part)}
        for part, own in results.items()
    ]


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """`acc` and `acc_stderr` of the library's `acc,none` and `acc_stderr,none`; a filter's name stays."""
    numbers = ((name, value) for name, value in result.items() if isinstance(value, int | float))
    return {name.removesuffix(NO_FILTER): float(value) for name, value in numbers if name not in ("sample_len",)}


def _num_samples(found: Mapping[str, Any], name: str) -> int:
    counts = {part: int(own["effective"]) for part, own in found["n-samples"].items()}
    return counts.get(name, sum(counts.values()))


def _manager(run: Mapping[str, Any]) -> TaskManager:
    """The library's own thousands are looked through only where their data can be fetched."""
    return TaskManager(include_path=run["tasks_dir"], include_defaults=bool(run["hub"]))


@contextlib.contextmanager
def _at_their_folder(run: Mapping[str, Any]) -> Iterator[None]:
    with contextlib.chdir(run["tasks_dir"]) if run["tasks_dir"] else contextlib.nullcontext():
        yield
