"""The spec of generation in bulk: a model answers every row of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared import templates
from shared.fields import Texts
from shared.param import MISSING, group, param
from shared.spec.answering import Choosing, Ending, Forming, Prompting, Searching, Telling, Thinking
from shared.spec.drawing import Drawing


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
        None, "Seed of the random choices.", type=int, minimum=0, maximum=2**63 - 1, source="OpenAI"
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
    model: str = param(
        MISSING,
        "Model that answers: a name of the catalog.",
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
    sampling: Sampling = group(Sampling)

    def resolved(self) -> GenerateSpec:
        return replace(self, template=templates.settled(self.template))
