"""What the phase that asks vLLM is told: a file in the attempt's scratch folder. Plain JSON, standard library only.

The models, what each has said through transformers, and the rows and prompts that it is to be asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export_worker.child.answers import Answer
from export_worker.child.asked import Prompt, Sample

SERVING = "serving.json"


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model's folder, and what it said when it was read from there without vLLM."""

    name: str
    folder: str
    #: None: it was not read.
    loss: float | None
    answers: list[Answer]


@dataclass(frozen=True, kw_only=True)
class Serving:
    models: list[Served]
    samples: list[Sample]
    prompts: list[Prompt]
    #: Longest answer, tokens.
    answer_tokens: int
    trust_remote_code: bool
    #: Limits, as in the spec.
    max_answer_gap: float
    max_difference: float
    max_perplexity_ratio: float
    #: Whether the export fails where vLLM cannot load or ask the files.
    is_required: bool

    def save(self, scratch: Path) -> None:
        (scratch / SERVING).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, scratch: Path) -> Serving:
        told: dict[str, Any] = json.loads((scratch / SERVING).read_text())
        parts = {
            "models": [_model(one) for one in told.pop("models")],
            "samples": [Sample(**one) for one in told.pop("samples")],
            "prompts": [Prompt(**one) for one in told.pop("prompts")],
        }
        return cls(**parts, **told)


def _model(told: Mapping[str, Any]) -> Served:
    answers: Sequence[Mapping[str, Any]] = told["answers"]
    return Served(
        name=told["name"],
        folder=told["folder"],
        loss=told["loss"],
        answers=[Answer.from_dict(one) for one in answers],
    )
