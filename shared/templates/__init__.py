"""Chat templates: Jinja files, and where the model's answer ends in each.

Left out, a spec's `template` means the model's own chat template, which is nearly always right; a named one replaces
it. Names are LF's. What this does not do: render (see `render.py`), or carry LF's templates that we cannot reproduce
with certainty, which are listed in LATER.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from shared import registry
from shared.errors import NotFound
from shared.fields import Message
from shared.templates._later import LATER
from shared.templates._table import ENTRIES

__all__ = ["LATER", "OWN", "Template", "complaint", "get", "names", "settled", "unknown"]

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
    return sorted([*ENTRIES, OWN])


def get(name: str) -> Template:
    """The template of this name. Raises NotFound with the nearest name; the model's own is not here."""
    if name not in ENTRIES:
        raise NotFound(f"template {complaint(name) or 'is that of the model'}", field="template")
    entry = ENTRIES[name]
    body = resources.files(__name__).joinpath(entry.file).read_text(encoding="ascii").rstrip("\n")
    return Template(name=name, jinja=f"{_default_system(entry.system)}{body}", stop_words=entry.stops)


def complaint(value: str) -> Message | None:
    """What is wrong with the name, for jobs that need the template itself."""
    instead = f"leave template out to use the model's own; we ship {', '.join(ENTRIES)}"
    return registry.complaint(value, names(), dict.fromkeys(LATER - ENTRIES.keys(), instead))


def unknown(value: str) -> Message | None:
    """What is wrong with the name, for exports: every name that LF knows will do, the model keeps its own."""
    return None if value in LATER else complaint(value)


def settled(name: str | None) -> str | None:
    """The name as a spec keeps it: None wherever the model's own is meant."""
    return name if name in ENTRIES else None


def _default_system(text: str) -> str:
    """What a shared file finds as the system prompt of conversations that have none."""
    return f"{{%- set default_system = {text!r} -%}}"
