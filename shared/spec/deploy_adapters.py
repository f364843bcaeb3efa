"""Adapters of a deployment: whether its replicas take them beside their base, and how many."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param
from shared.rules import rule
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class AdapterServing:
    enable_lora: bool | None = param(
        None,
        "Whether adapters can be loaded onto its replicas while they answer, beside the base. Left out: wherever vLLM "
        "is known to do it without answering more slowly: models of a usual architecture, not quantized.",
        type=bool,
        source="vLLM",
        since=5,
    )
    max_loras: int = param(
        4,
        "Adapters that requests answered at the same time may name; those that name further ones wait.",
        minimum=1,
        maximum=256,
        source="vLLM",
        since=5,
    )
    max_cpu_loras: int = param(
        16,
        "Adapters kept in the host's memory. Beyond that the least recently used is read from disk when asked again.",
        minimum=1,
        maximum=4096,
        source="vLLM",
        since=5,
    )

    @rule("max_cpu_loras")
    def what_answers_is_kept(self) -> str | None:
        if self.max_cpu_loras >= self.max_loras:
            return None
        text = "is {kept}, below max_loras {answering}: an adapter that answers is kept in memory"
        return Text(text, kept=self.max_cpu_loras, answering=self.max_loras)
