"""Supervised fine-tuning: learn to answer from conversations, the loss on the answers."""

from __future__ import annotations

from typing import Any

from trainer_worker.child import datasets, publish, setup
from trainer_worker.child.context import Context
from trainer_worker.child.report import Heed, Report, Stopped
from trainer_worker.child.trainer import LanguageTrainer


def run(context: Context) -> dict[str, Any]:
    """Train and publish; the data of the outcome `done`. Raises Stopped."""
    parts = datasets.load(context)
    context.emit("message", f"Loading {context.run['base_name']}")
    made = setup.make(context, parts)
    heed = Heed(context)
    trainer = LanguageTrainer(
        context,
        made.precision,
        model=made.model,
        args=made.arguments,
        data_collator=made.collator,
        train_dataset=parts.train,
        eval_dataset=parts.evaluation,
        callbacks=[Report(context), heed],
    )
    outcome = trainer.train(resume_from_checkpoint=context.run["resume_from"])
    if heed.wish != "run":
        raise Stopped(trainer.state.global_step)
    metrics = trainer.evaluate() if context.spec.tuning.do_eval and parts.evaluation is not None else {}
    publish.output(trainer, context)
    return publish.result(trainer, outcome, metrics)
