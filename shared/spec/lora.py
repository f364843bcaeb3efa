"""LoRA: the adapter's size, which modules get one, how it starts, and how fast its two matrices learn."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule


@dataclass(frozen=True, kw_only=True)
class Lora:
    rank: int = param(
        8,
        "Capacity of the adapter.",
        minimum=1,
        maximum=1024,
        aliases=("lora_r",),
        advice="7B: 8 to 16 for style, 32 to 64 for knowledge; 34B: from 32; 70B and above: from 64.",
        picture="The thickness of the notebook beside the textbook: a thin one holds a style, a thick one knowledge.",
    )
    alpha: int | None = param(
        None,
        "Scale of the adapter. Left out: 2 x rank.",
        type=int,
        minimum=1,
        maximum=4096,
        advice="2 x rank.",
        picture="How loudly the notebook speaks beside the textbook.",
    )
    dropout: float = param(
        0.0,
        "Share of the adapter's inputs dropped while training.",
        minimum=0.0,
        maximum=1.0,
        exclusive_maximum=True,
        advice="0.05 to 0.1 for under 10,000 samples or when over-fitting, else 0.",
        picture="Some lines of the notebook are covered at random, so that it is understood and not learned by heart.",
    )
    target: list[str] = param(
        ["all"],
        "Modules that get an adapter: `all` linear layers, or names.",
        advice="all; names differ where an architecture fuses q, k and v.",
        picture="Which chapters of the textbook get notes.",
    )
    additional_target: list[str] = param(
        [], "Modules trained in full and saved with the adapter, e.g. embed_tokens,lm_head.", wire="additional_target"
    )
    use_rslora: bool = param(False, "Rank-stabilised scale: alpha / sqrt(rank).", wire="use_rslora")
    use_dora: bool = param(False, "Weight-decomposed adapters (DoRA): a little better, slower.", wire="use_dora")
    pissa_init: bool = param(
        False,
        "Start from the principal singular vectors of each matrix (PiSSA) instead of zero: learns faster.",
        wire="pissa_init",
        since=2,
        advice="Try it when LoRA learns too slowly; what is published is a plain adapter of twice the rank.",
    )
    pissa_iter: int = param(
        16,
        "Iterations of PiSSA's fast singular value decomposition; -1: the exact one, slow for large matrices.",
        minimum=-1,
        maximum=1000,
        wire="pissa_iter",
        since=2,
    )
    pissa_convert: bool = param(
        False,
        "LF's switch; what PiSSA trained is always published as a plain adapter, which fits the model as it is.",
        wire="pissa_convert",
        since=2,
    )
    loraplus_lr_ratio: float | None = param(
        None,
        "Learning rate of the matrices B over that of the matrices A (LoRA+). Left out: the same for both.",
        type=float,
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1024.0,
        wire="loraplus_lr_ratio",
        since=2,
        advice="16, with half the usual learning rate.",
    )
    loraplus_lr_embedding: float = param(
        1e-6,
        "Learning rate of adapters of embeddings under LoRA+.",
        minimum=0.0,
        maximum=1.0,
        wire="loraplus_lr_embedding",
        since=2,
    )
    create_new_adapter: bool = param(
        False, "Merge the given adapter into the base and start a new one.", wire="create_new_adapter"
    )

    @rule("lora_target", code="invalid_value")
    def some_target(self) -> str | None:
        return "is empty: `all`, or names of modules" if self.target == [] else None

    @rule("pissa_init")
    def one_initialisation(self) -> str | None:
        both = self.pissa_init and self.use_dora
        return (
            "cannot be true together with use_dora: its result could not be written as a plain adapter"
            if both
            else None
        )
