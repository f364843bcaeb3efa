"""Remarks on stage ppo: whether it is the right one, how its answers are drawn, how many one step learns from."""

from __future__ import annotations

from collections.abc import Iterator

from shared import stages
from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import Drawing
from shared.tongues import Text

REFERENCE, ESTIMATE = Origin.REFERENCE, Origin.ESTIMATE
#: Answers of a step below which its advantages are mostly noise.
FEW_ANSWERS = 16


def alternatives(case: Case) -> Iterator[Finding]:
    if case.spec.tuning.stage != "ppo":
        return
    text = Text("PPO holds the model, its reference, a reward model and values, and is the most delicate stage.")
    advice = Text(
        "With preference pairs at hand use stage dpo, which learns from them directly. GRPO and RLOO, as the library "
        "trl has them, are the newer ways to learn from rewards."
    )
    yield info("stage", REFERENCE, text, advice)


def drawing(case: Case) -> Iterator[Finding]:
    given = case.spec.drawing
    if case.spec.tuning.stage != "ppo":
        return
    if given.top_p < 1 or given.top_k > 0:
        text = Text(
            "Answers are drawn from the likeliest tokens (top_p {top_p}, top_k {top_k}), but compared by their whole "
            "probabilities: the divergence comes out wrong, even negative.", top_p=given.top_p, top_k=given.top_k,
        )  # fmt: skip
        field = "top_p" if given.top_p < 1 else "top_k"
        yield warning(field, REFERENCE, text, Text("Set top_p to 1 and top_k to 0."))
    if given.repetition_penalty != 1:
        text = Text("A penalty on repetitions draws other answers than the model would give.")
        yield warning("repetition_penalty", REFERENCE, text, Text("Leave it out in stage ppo."))


def answers(case: Case) -> Iterator[Finding]:
    if case.spec.tuning.stage != "ppo":
        return
    count = case.rows_per_step
    if count < FEW_ANSWERS:
        text = Text("A step learns from {count} answers: their advantages are mostly noise.", count=count)
        advice = Text("Raise gradient_accumulation_steps or ppo_buffer_size to {least} answers or more a step.",
                      least=FEW_ANSWERS)  # fmt: skip
        yield warning("ppo_buffer_size", ESTIMATE, text, advice)


def unheard(case: Case) -> Iterator[Finding]:
    """LF's files carry how answers are drawn along, whatever the stage."""
    if stages.get(case.spec.tuning.stage).asks:
        return
    for name, value in vars(case.spec.drawing).items():
        if value != getattr(Drawing(), name):
            text = Text("{name} has no effect here: only stage ppo draws answers while it trains.", name=name)
            yield info(
                name, REFERENCE, text, Text("Give it where the model is deployed, or to a job of kind generate.")
            )


CHECKS = (alternatives, drawing, answers, unheard)
