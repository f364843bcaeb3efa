"""Remarks on stages that learn from preferences: what has no effect there, and what the estimates stand on."""

from __future__ import annotations

from collections.abc import Iterator

from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import Preference
from shared.stages.dpo import REFERENCE_FREE, Dpo
from shared.stages.kto import Kto
from shared.tongues import Text

REFERENCE = Origin.REFERENCE
#: Stages that read the fields of shared/spec/preference.py.
PREFERRING = ("dpo", "kto")


def dropout(case: Case) -> Iterator[Finding]:
    stage = case.spec.tuning.stage
    if stage in PREFERRING and case.spec.lora.dropout > 0:
        text = Text("Stage {stage} trains without dropout: model and reference must read a text alike.", stage=stage)
        yield warning("lora_dropout", REFERENCE, text, Text("Leave lora_dropout out."))


def unused(case: Case) -> Iterator[Finding]:
    spec, stage = case.spec, case.spec.tuning.stage
    strayed = {
        "pref_beta": stage not in PREFERRING and spec.preference != Preference(),
        "pref_loss": stage != "dpo" and spec.plugged["dpo"] != Dpo(),
        "kto_chosen_weight": stage != "kto" and spec.plugged["kto"] != Kto(),
    }
    for field, is_given in strayed.items():
        if is_given:
            text = Text(
                "{field} or one of its kind is given: stage {stage} does not read it.", field=field, stage=stage
            )
            yield warning(field, REFERENCE, text, Text("Leave it out, or choose the stage that it is for."))


def reference(case: Case) -> Iterator[Finding]:
    spec = case.spec
    if spec.tuning.stage not in PREFERRING:
        return
    compares = spec.tuning.stage == "kto" or spec.plugged["dpo"].pref_loss not in REFERENCE_FREE
    if compares and not spec.trains_adapter() and spec.preference.ref_model is None:
        text = Text("A second, frozen copy of the model is kept beside the trained one as its reference.")
        advice = Text("With finetuning_type lora, or pref_loss simpo or orpo, there is none.")
        yield info("ref_model", REFERENCE, text, advice)


def estimate(case: Case) -> Iterator[Finding]:
    """Of KTO: the distance to the reference is a mean over one small batch on all devices."""
    size = case.spec.train.per_device_train_batch_size * case.num_devices
    if case.spec.tuning.stage == "kto" and size < 4:
        text = Text("The distance to the reference is estimated on {size} answers at a time: it is noisy.", size=size)
        advice = Text("Raise per_device_train_batch_size to 4 or more, and lower accumulation instead.")
        yield info("per_device_train_batch_size", REFERENCE, text, advice)


CHECKS = (dropout, unused, reference, estimate)
