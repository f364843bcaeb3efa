"""What an export has to prove before it is published: how much is compared, and how far apart the models may be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from shared.param import param

_ours = partial(param, source="ours", since=4)


@dataclass(frozen=True, kw_only=True)
class Parity:
    export_verify_rows: int = _ours(
        8,
        "Held-out rows on which the exported model is compared with the trained one.",
        minimum=1,
        maximum=256,
    )
    export_verify_answers: int = _ours(
        3, "How many of these rows each model answers greedily.", minimum=0, maximum=64,
        advice="Answers of large models take minutes on a CPU.",
    )  # fmt: skip
    export_verify_answer_tokens: int = _ours(
        64, "Longest greedy answer that is compared.", minimum=1, maximum=2048, unit="tokens"
    )
    export_verify_prompt: bool = _ours(
        True,
        "Whether prompts, and the token that ends an answer, must be those of the training.",
        advice="false only where another template is wanted on purpose.",
    )
    export_verify_vllm: str = _ours(
        "auto",
        "Whether vLLM loads and answers the files before they are published. `auto`: where the worker has an inference "
        "environment and vLLM serves the format; `require`: the export fails where that cannot be done.",
        choices=("auto", "require", "off"),
    )
    export_max_logit_difference: float = _ours(
        0.05,
        "Largest difference of the merged model's logits from the trained model's, relative to their size.",
        minimum=0.0,
    )
    export_max_lost_effect: float = _ours(
        0.5, "The same difference, relative to what the adapter changes: 1 means that it was lost.", minimum=0.0
    )
    export_min_agreement: float = _ours(
        0.9,
        "Share of positions at which merged and trained model must hold the same token for the likeliest.",
        minimum=0.0,
        maximum=1.0,
    )
    export_max_answer_gap: float = _ours(
        1.0,
        "Where two greedy answers that should be the same part: how much less likely the other's token may be.",
        minimum=0.0,
        unit="nats",
    )
    export_max_perplexity_ratio: float = _ours(
        1.5,
        "Largest perplexity of the quantized model, relative to the merged model's.",
        minimum=1.0,
        advice="8 bits cost below 1.01, 4 bits 1.02 to 1.2, 2 bits far more.",
    )
    export_max_served_difference: float = _ours(
        0.1,
        "How far vLLM's loss may be from that of the same files in transformers.",
        minimum=0.0,
        unit="nats per token",
    )
