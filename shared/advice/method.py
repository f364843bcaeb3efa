"""Remarks on kinds of LoRA, losses and optimizers: what is asked for and will do something else, or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import DeploySpec
from shared.tongues import Text

REFERENCE = Origin.REFERENCE


def pissa(case: Case) -> Iterator[Finding]:
    lora, model = case.spec.lora, case.spec.model
    if not lora.pissa_init:
        return
    if model.adapter_name_or_path is not None and not lora.create_new_adapter:
        text = "PiSSA is how a new adapter starts; the one that is named goes on from where it is."
        yield warning("pissa_init", REFERENCE, text, "Leave pissa_init out.")
        return
    told = "The adapter is trained with rank {rank} and published as a plain one of rank {twice}."
    text = Text(told, rank=lora.rank, twice=2 * lora.rank)
    yield info("pissa_convert", REFERENCE, text)
    if lora.rank <= (served := DeploySpec(model="").vllm_max_lora_rank) < 2 * lora.rank:
        told = "Rank {rank} is above {served}, the largest that a deployment serves unmerged by default."
        text = Text(told, rank=2 * lora.rank, served=served)
        yield warning("pissa_init", REFERENCE, text, "Halve lora_rank, export it merged, or raise vllm_max_lora_rank.")


def additional(case: Case) -> Iterator[Finding]:
    if case.spec.trains_adapter() and (names := case.spec.lora.additional_target):
        told = "{names} are trained in full: a deployment serves no adapter with whole modules."
        text = Text(told, names=", ".join(names))
        yield info("additional_target", REFERENCE, text, "Export it merged before you deploy it.")


CHECKS = (pissa, additional)
