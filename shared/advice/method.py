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


def tokens(case: Case) -> Iterator[Finding]:
    given, spec = case.spec.new_tokens, case.spec
    if given.init_special_tokens != "noise_init" and given.new_special_tokens_config is None:
        told = "{given} needs descriptions: new embeddings begin as the mean of all and noise."
        needs = Text(told, given=given.init_special_tokens)
        yield warning("init_special_tokens", REFERENCE, needs, "Give new_special_tokens_config.")
    if given.new_special_tokens_config is not None and given.add_special_tokens:
        text = "The tokens of new_special_tokens_config are added, those of add_special_tokens are not."
        yield warning("add_special_tokens", REFERENCE, text, "Name all of them in new_special_tokens_config.")
    if given.grows and spec.tuning.finetuning_type == "freeze" and not spec.freeze.extra_modules:
        text = "The embeddings of new tokens stay as they begin: only chosen layers are trained."
        yield warning("freeze_extra_modules", REFERENCE, text, "Name the embeddings, e.g. embed_tokens.")
    if given.grows and spec.trains_adapter() and not spec.lora.additional_target:
        text = "The embeddings are trained in full beside the adapter, because new tokens have none yet."
        yield info("additional_target", REFERENCE, text)


def merged(case: Case) -> Iterator[Finding]:
    if case.spec.changes_base():
        text = "The adapter is trained beside a changed base: it is published merged into it, as one whole model."
        yield info("finetuning_type", REFERENCE, text)


CHECKS = (pissa, additional, tokens, merged)
