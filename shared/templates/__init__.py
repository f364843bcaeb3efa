"""Chat templates: one Jinja file each, and what a stop of the model's answer looks like in it.

Left out, a spec's `template` means the model's own chat template, which is nearly always right; a named one replaces
it. Names are LF's. What this does not do: render (see `render.py`), or carry LF's templates that we cannot reproduce
with certainty, which are listed in LATER.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from shared import registry
from shared.errors import NotFound
from shared.fields import Message
from shared.templates._later import LATER
from shared.templates._table import FILES, STOPS

__all__ = ["LATER", "OWN", "Template", "complaint", "get", "names", "unknown"]

#: Says in words what leaving `template` out says.
OWN = "default-of-model"


@dataclass(frozen=True, kw_only=True)
class Template:
    name: str
    #: Source of the template, as in a tokenizer's `chat_template`.
    jinja: str
    #: Texts at which an answer ends, besides the model's own end of text.
    stop_words: tuple[str, ...]


def names() -> list[str]:
    """Every name that `template` may have."""
    return sorted([*FILES, OWN])


def get(name: str | None) -> Template | None:
    """The template of this name; None stands for the model's own. Raises NotFound with the nearest name."""
    if name is None or name == OWN:
        return None
    if (message := complaint(name)) is not None:
        raise NotFound(f"template {message}", field="template")
    text = resources.files(__name__).joinpath(FILES[name]).read_text(encoding="utf-8")
    return Template(name=name, jinja=text, stop_words=STOPS.get(name, ()))


def complaint(value: str) -> Message | None:
    """What is wrong with the name, for jobs that need the template itself."""
    instead = f"leave template out to use the model's own; we ship {', '.join(FILES)}"
    later: Mapping[str, str] = {name: instead for name in LATER if name not in FILES}
    return registry.complaint(value, names(), later)


def unknown(value: str) -> Message | None:
    """What is wrong with the name, for exports: every name that LF knows will do, the model keeps its own."""
    return None if value in LATER else complaint(value)
