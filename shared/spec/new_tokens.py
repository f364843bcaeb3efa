"""Tokens that a model gets before it is trained, and how their embeddings begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.fields import Message, StrictObject, refuse, shown
from shared.param import param


class Descriptions(StrictObject):
    """LF names a file of the server here; what is in it is given instead."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(value, str):
            text = "is {value}: no file of the server is read; give what is in it, {example}"
            raise refuse(text, "invalid_type", value=shown(value), example="{token: description, ...}")
        return super()._deserialize(value, attr, data, **kwargs)


def _described(value: dict[str, Any]) -> Message | None:
    wrong = [name for name, text in value.items() if not isinstance(text, str) or not text.strip() or not name.strip()]
    return Message("has no description of {name}: must be text", name=shown(wrong[0])) if wrong else None


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    resize_vocab: bool = param(
        False,
        "Grow the embeddings (to a multiple of 64) where the tokenizer has more tokens than they have rows; new tokens "
        "turn it on.",
        since=2,
    )
    add_tokens: list[str] = param([], "Ordinary tokens that are added to the tokenizer.", since=2)
    add_special_tokens: list[str] = param(
        [],
        "Special tokens that are added to the tokenizer: never split, hidden from answers.",
        since=2,
        advice="Only with thousands of rows in which they occur: their embeddings are learned from nothing.",
    )
    new_special_tokens_config: dict[str, str] | None = param(
        None,
        "Special tokens that are added, each with a description from which its embedding can begin.",
        type=dict,
        field_class=Descriptions,
        check=_described,
        since=2,
    )
    init_special_tokens: str = param(
        "noise_init",
        "How new embeddings begin: the mean of all and noise, the mean of the description's words, or that and noise.",
        choices=("noise_init", "desc_init", "desc_init_w_noise"),
        since=2,
    )

    @property
    def special(self) -> list[str]:
        """Descriptions win, as in LF."""
        described = self.new_special_tokens_config
        return self.add_special_tokens if described is None else list(described)

    @property
    def grows(self) -> bool:
        return self.resize_vocab or bool(self.add_tokens) or bool(self.special)
