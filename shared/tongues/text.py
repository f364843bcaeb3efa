"""A sentence that remembers how it was made, so that it can be said in another tongue later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self


class Text(str):
    """An English sentence: `Text("is {value}: must be at least {low}", value=3, low=4)`.

    It is the sentence itself, and keeps template and values beside it. A value may be a Text. Without values the
    template is the sentence, braces and all; a Text made of a Text is the same sentence.
    """

    template: str
    values: Mapping[str, Any]

    def __new__(cls, template: str, /, **values: Any) -> Self:
        text = super().__new__(cls, template.format(**values) if values else template)
        text.template, text.values = template, values
        if isinstance(template, Text):
            text.template, text.values = template.template, template.values
        return text


def listed(parts: Iterable[str]) -> Text:
    """The parts with commas between, each of which may be a Text."""
    named = {f"part{index}": part for index, part in enumerate(parts)}
    return Text(", ".join(f"{{{name}}}" for name in named), **named)
