"""The spec of generation in bulk: a model answers every row of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared import templates
from shared.fields import Texts
from shared.param import MISSING, group, param


@dataclass(frozen=True, kw_only=True)
class Sampling:
    do_sample: bool = param(True, "Draw tokens at random; false takes the likeliest.")
    temperature: float = param(
        0.95,
        "Randomness: 0 takes the likeliest token.",
        minimum=0.0,
        maximum=2.0,
        advice="0.1: facts, 0.9: ideas.",
        picture="How freely a speaker improvises: 0 reads from the script.",
    )
    top_p: float = param(
        0.7,
        "Draw from the likeliest tokens that add up to this.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1.0,
        picture="Choosing only among the dishes that most guests order.",
    )
    top_k: int = param(
        50,
        "Draw from this many likeliest tokens; -1 or 0: all.",
        minimum=-1,
        maximum=1_000_000,
        picture="A menu cut down to its first k dishes.",
    )
    min_p: float = param(
        0.0, "Leave out tokens below this share of the likeliest.", minimum=0.0, maximum=1.0, source="vLLM"
    )
    max_new_tokens: int = param(
        1024,
        "Longest answer.",
        minimum=1,
        maximum=1_048_576,
        unit="tokens",
        aliases=("max_tokens", "max_completion_tokens"),
        picture="The speaking time: then the microphone is turned off.",
    )
    repetition_penalty: float = param(
        1.0,
        "Above 1 makes repeated tokens less likely.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=2.0,
        picture="A listener who frowns at what was said before.",
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
    sampling: Sampling = group(Sampling)

    def resolved(self) -> GenerateSpec:
        return replace(self, template=templates.settled(self.template))
