"""The table of templates, generated: `python -m shared.templates.reference > docs/templates.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from shared import templates
from shared.templates import families

INTRODUCTION = """# Templates

Names that `template` may have. Left out (or `default-of-model`), the model's own chat template is used, which is nearly
always right. A named one writes, reads and learns the very text that LLaMA Factory does under that name; text only,
where the model also takes pictures, film or sound. *Thinks*: `enable_thinking` and `preserve_thinking` have an effect.
*Ends once*: the end of text stands after the last answer alone and is learned where each answer ends, so
`train_on_prompt` is refused. Two things are other than there: a row whose list of tools is empty is a row without tools
(LLaMA Factory writes an empty system prompt), and the text before an answer is tokenized as a whole, as it is when the
model is served. This page is generated: `python -m shared.templates.reference`.

| name | for | system prompt | ends of an answer | tools | |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page as Markdown."""
    return INTRODUCTION + "".join(f"{row}\n" for row in _rows())


def _rows() -> Iterator[str]:
    for name in templates.names():
        if name == templates.OWN:
            continue
        made = templates.get(name)
        notes = {"thinks": made.reasoning, "ends once": made.ends_once, "text only": bool(made.refused)}
        cells = (
            f"`{name}`",
            ", ".join(families.models_of(name)),
            _short(made.default_system),
            " ".join(f"`{word}`" for word in made.stop_words),
            made.tool_format,
            ", ".join(note for note, holds in notes.items() if holds),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _short(text: str) -> str:
    """The first words, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


if __name__ == "__main__":
    sys.stdout.write(page())
