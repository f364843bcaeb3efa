"""The spec of generation in bulk: a model answers every row of a dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from shared import templates
from shared.fields import Message, Texts, shown
from shared.param import MISSING, group, param
from shared.spec.answering import Choosing, Ending, Forming, Prompting, Searching, Telling, Thinking
from shared.spec.drawing import Drawing

WINDOW = re.compile(r"([1-9]\d{0,4})([mhd])")
UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def seconds_of(window: str) -> int:
    """Of a completion window that was accepted."""
    found = WINDOW.fullmatch(window)
    assert found is not None
    return int(found[1]) * UNIT_SECONDS[found[2]]


def window_complaint(window: str) -> Message | None:
    if WINDOW.fullmatch(window):
        return None
    return Message("is {window}: a number and m, h or d, e.g. 24h", window=shown(window))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    drawing: Drawing = group(Drawing)
    min_p: float = param(
        0.0, "Leave out tokens below this share of the likeliest.", minimum=0.0, maximum=1.0, source="vLLM"
    )
    presence_penalty: float = param(0.0, "Above 0 favours new tokens.", minimum=-2.0, maximum=2.0, source="OpenAI")
    frequency_penalty: float = param(
        0.0, "Above 0 disfavours frequent tokens.", minimum=-2.0, maximum=2.0, source="OpenAI"
    )
    seed: int | None = param(
        None, "Seed of the random choices; -1: none.", type=int, minimum=1 - 2**63, maximum=2**63 - 1, source="OpenAI"
    )
    stop: list[str] = param([], "Texts at which an answer ends.", field_class=Texts, source="OpenAI")
    n: int = param(1, "Answers for each row.", minimum=1, maximum=128, source="OpenAI")
    skip_special_tokens: bool = param(True, "Leave special tokens out of the answers.")
    searching: Searching = group(Searching)
    ending: Ending = group(Ending)
    choosing: Choosing = group(Choosing)
    telling: Telling = group(Telling)
    forming: Forming = group(Forming)
    thinking: Thinking = group(Thinking)
    prompting: Prompting = group(Prompting)


@dataclass(frozen=True, kw_only=True)
class GenerateSpec:
    model: str | None = param(
        None,
        "Model that answers: a name of the catalog, of a deployment or a route. Left out: each row names its own.",
        type=str,
        kind="model",
        source="OpenAI",
        aliases=("model_name_or_path",),
    )
    dataset: str = param(
        MISSING, "Dataset whose rows are answered: the id or name of an upload.", type=str, kind="dataset",
        aliases=("eval_dataset",),
    )  # fmt: skip
    template: str | None = param(
        None,
        "Chat template. Left out: the model's own.",
        type=str,
        kind="template",
        choices=templates.names(),
        check=templates.complaint,
    )
    default_system: str | None = param(None, "System prompt for rows that have none.", type=str)
    max_samples: int | None = param(None, "Rows answered, for trying out. Left out: all.", type=int, minimum=1)
    preset: str | None = param(
        None, "Generation parameters by name, as the preset has them now; what the job says itself goes before.",
        type=str, source="ours", since=5,
    )  # fmt: skip
    completion_window: str | None = param(
        None,
        "Time for all rows, counted from the request: 24h, 90m, 7d. What has no answer by then fails. Left out: none.",
        type=str,
        check=window_complaint,
        source="OpenAI",
        since=5,
    )
    sampling: Sampling = group(Sampling)

    def resolved(self) -> GenerateSpec:
        return replace(self, template=templates.settled(self.template))
