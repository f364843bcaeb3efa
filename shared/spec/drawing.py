"""How answers are drawn, token by token: for generation in bulk, and for the rollouts of stage ppo."""

from __future__ import annotations

from dataclasses import dataclass

from shared.param import param


@dataclass(frozen=True, kw_only=True)
class Drawing:
    do_sample: bool = param(True, "Draw tokens at random; false takes the likeliest.", since=2)
    temperature: float = param(
        0.95,
        "Randomness: 0 takes the likeliest token.",
        minimum=0.0,
        maximum=2.0,
        advice="0.1: facts, 0.9: ideas; stage ppo: 1.",
        picture="How freely a speaker improvises: 0 reads from the script.",
        since=2,
    )
    top_p: float = param(
        0.7,
        "Draw from the likeliest tokens that add up to this.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1.0,
        advice="Stage ppo: 1, so that what is drawn is what is corrected.",
        picture="Choosing only among the dishes that most guests order.",
        since=2,
    )
    top_k: int = param(
        50,
        "Draw from this many likeliest tokens; -1 or 0: all.",
        minimum=-1,
        maximum=1_000_000,
        advice="Stage ppo: 0.",
        picture="A menu cut down to its first k dishes.",
        since=2,
    )
    max_new_tokens: int = param(
        1024,
        "Longest answer.",
        minimum=1,
        maximum=1_048_576,
        unit="tokens",
        aliases=("max_tokens", "max_completion_tokens"),
        picture="The speaking time: then the microphone is turned off.",
        since=2,
    )
    repetition_penalty: float = param(
        1.0,
        "Above 1 makes repeated tokens less likely.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=2.0,
        picture="A listener who frowns at what was said before.",
        since=2,
    )
