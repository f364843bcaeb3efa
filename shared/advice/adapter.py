"""Remarks on the adapter: its rank, scale and dropout, and fields of methods that are not used."""

from __future__ import annotations

from collections.abc import Iterator

from shared.advice.case import Case
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec import DeploySpec, Freeze, Lora
from shared.tongues import Text

PAPER, REFERENCE = Origin.PAPER, Origin.REFERENCE
#: Samples below which the paper advises dropout.
FEW_ROWS = 10_000


def adapter(case: Case) -> Iterator[Finding]:
    if case.spec.tuning.finetuning_type != "lora":
        return
    lora, rows = case.spec.lora, case.train_rows
    yield from _rank(case)
    alpha = lora.alpha or 2 * lora.rank
    if alpha == 2 * lora.rank:
        yield info("lora_alpha", PAPER, Text("alpha {alpha} = 2 x rank {rank}: sound.", alpha=alpha, rank=lora.rank))
    else:
        text = Text("alpha {alpha} is {times} x rank {rank}; 2 x rank is advised.", alpha=alpha,
                    times=f"{alpha / lora.rank:g}", rank=lora.rank)  # fmt: skip
        advice = Text("Set lora_alpha to {alpha}, or leave it out.", alpha=2 * lora.rank)
        yield warning("lora_alpha", PAPER, text, advice)
    if lora.dropout == 0 and rows is not None and rows < FEW_ROWS:
        text = Text("There are {rows} rows, under 10,000, and no dropout in the adapter.", rows=rows)
        yield info("lora_dropout", PAPER, text, Text("Set lora_dropout to 0.05 to 0.1 if it over-fits."))


def _rank(case: Case) -> Iterator[Finding]:
    rank, billions = case.spec.lora.rank, case.billions
    if rank <= 16:
        text = Text("Rank {rank} is light: it aims at style and format, not at knowledge.", rank=rank)
        yield info("lora_rank", PAPER, text, Text("For new knowledge: 32 to 64."))
    elif rank >= 32:
        text = Text("Rank {rank} has room for knowledge; for style 8 to 16 is enough.", rank=rank)
        yield info("lora_rank", PAPER, text)
    least = 64 if billions and billions >= 70 else 32 if billions and billions >= 34 else 0
    if rank < least:
        text = Text("For a model of {size} rank {least} and above is advised.", size=case.size, least=least)
        further = Text("Try 128 or 256 where it learns too little.") if least == 64 else ""
        yield info("lora_rank", PAPER, text, further)
    if billions and billions >= 30:
        text = Text(
            "The parameters of each rank grow with the model already: the rank follows data and task, not size."
        )
        yield info("lora_rank", REFERENCE, text, Text("Raise it when the loss stays high with a sound learning rate."))
    served = DeploySpec(model="").vllm_max_lora_rank
    if rank > served:
        text = Text("Rank {rank} is above {served}, the largest that a deployment serves unmerged by default.",
                    rank=rank, served=served)  # fmt: skip
        yield warning("lora_rank", REFERENCE, text, Text("Export the adapter merged, or raise vllm_max_lora_rank."))


def unused(case: Case) -> Iterator[Finding]:
    """Fields of another method: accepted, because LF's files carry them along, but without effect."""
    method, lora, freeze = case.spec.tuning.finetuning_type, case.spec.lora, case.spec.freeze
    if method != "lora" and (lora.rank, lora.dropout, lora.target) != (Lora().rank, Lora().dropout, Lora().target):
        text = Text("Fields of LoRA are given, but finetuning_type is {method}: they have no effect.", method=method)
        yield warning("lora_rank", REFERENCE, text, Text("Set finetuning_type to lora, or leave them out."))
    if method != "freeze" and freeze != Freeze():
        text = Text("Fields of freeze are given, but finetuning_type is {method}: they have no effect.", method=method)
        advice = Text("Set finetuning_type to freeze, or leave them out.")
        yield warning("freeze_trainable_layers", REFERENCE, text, advice)


CHECKS = (adapter, unused)
