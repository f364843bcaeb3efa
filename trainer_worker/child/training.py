"""A training from its prepared data to its published model: the same for every stage, but for the objective."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trainer_worker.child import datasets, flops, journal, publish, setup
from trainer_worker.child.batch import Collator
from trainer_worker.child.best import Best
from trainer_worker.child.context import Context
from trainer_worker.child.datasets import Parts
from trainer_worker.child.objective import Objective
from trainer_worker.child.report import Heed, Report, Stopped
from trainer_worker.child.setup import Made
from trainer_worker.child.tracking.beside import trackers
from trainer_worker.child.trainer import StageTrainer


def run(
    context: Context,
    make_objective: Callable[[Context, Made], Objective],
    batches: Callable[[Collator], Collator] = lambda inner: inner,
) -> dict[str, Any]:
    """Train and publish; the data of the outcome `done`. `batches` adds what the objective needs to a batch of plain
    samples. Raises Stopped."""
    with trackers(context):
        return _run(context, make_objective, batches)


def _run(
    context: Context, make_objective: Callable[[Context, Made], Objective], batches: Callable[[Collator], Collator]
) -> dict[str, Any]:
    parts = datasets.load(context)
    context.startup.mark("data")
    context.emit("message", f"Loading {context.run['base_name']}")
    made = setup.make(context, parts)
    context.startup.mark("model")
    objective = make_objective(context, made)
    parts_of_it = ingredients(made, parts) | {"data_collator": batches(made.collator)}
    trainer = StageTrainer(context, objective, **parts_of_it)
    trainer.kernels = made.kernels
    trainer.throughput.cost = flops.cost(made.model)
    trainer.throughput.peak = flops.peak(context.device, made.precision.compute or made.precision.frozen)
    return follow(context, trainer)


def ingredients(made: Made, parts: Parts) -> dict[str, Any]:
    """What transformers' Trainer is made of."""
    return {
        "model": made.model,
        "args": made.arguments,
        "data_collator": made.collator,
        "train_dataset": parts.train,
        "eval_dataset": parts.evaluation or None,
    }


def follow(context: Context, trainer: StageTrainer) -> dict[str, Any]:
    """From the first step to the published model. Raises Stopped."""
    heed = Heed(context)
    for callback in (journal.Journal(context), Report(context), heed):
        trainer.add_callback(callback)
    watch_for_best(trainer, context)
    if context.run.get("makes") != "merged" or context.spec.tuning.finetuning_type != "lora":
        # An adapter beside a changed base fits no model before it is merged, which ends its training.
        trainer.publish = partial(publish.checkpoint, trainer, context)
        trainer.publishes_state = publish.is_as_trained(trainer, context)
    if context.run["resume_from"]:
        trainer.objective.load(Path(context.run["resume_from"]))
    trainer.train(resume_from_checkpoint=context.run["resume_from"])
    if heed.wish != "run":
        raise Stopped(trainer.state.global_step)
    validates = context.spec.tuning.do_eval and trainer.eval_dataset is not None
    metrics = trainer.evaluate() if validates else {}
    publish.output(trainer, context)
    done = publish.result(trainer, metrics)
    if context.is_first:
        tell_people(trainer, context, done["metrics"])
    return done


def tell_people(trainer: StageTrainer, context: Context, metrics: dict[str, Any]) -> None:
    plotted = f"{context.run['base_name']}, {context.run['job_id']}" if context.spec.tuning.plot_loss else None
    folder, num_rows = Path(context.run["output_dir"]), len(trainer.train_dataset)
    journal.write(folder, trainer.state, metrics, num_rows=num_rows, plotted=plotted)


def watch_for_best(trainer: StageTrainer, context: Context) -> None:
    loop = context.spec.loop
    if not loop.load_best_model_at_end and loop.early_stopping_steps is None:
        return
    trainer.best = Best(context, partial(publish.weights, trainer, context))
    trainer.add_callback(trainer.best)
    if context.run["resume_from"]:
        trainer.best.load(Path(context.run["resume_from"]))
