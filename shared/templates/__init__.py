"""Chat templates: the text of a conversation, and where the model's answer ends in it.

Left out, a spec's `template` means the model's own chat template, which is nearly always right; a named one replaces
it. Names and texts are LF's. A template is put together here from the words of its family (words/), the way it writes
tools (tools/) and the order of a conversation, and is then one Jinja program that needs nothing else: what a training
learned with is what the model is served with. What this does not do: render (see `render.py`), or say which template
belongs to which model (see `families.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from shared import registry
from shared.errors import NotFound
from shared.fields import Message
from shared.templates._table import ENTRIES, Entry

__all__ = [
    "OWN", "TOOL_FORMATS", "Template", "Wording", "complaint", "get", "names", "own", "replacing", "settled", "systems",
]  # fmt: skip

#: Says in words what leaving `template` out says.
OWN = "default-of-model"
#: Ways to write tools and calls of them that any template can be told to use.
TOOL_FORMATS = (
    "default", "gemma4", "glm4", "glm4_moe", "lfm2", "ling", "llama3", "minimax1", "minimax2", "mistral", "qwen",
    "qwen3_5", "seed_oss",
)  # fmt: skip
#: What stands for a picture, a film or a sound in the data of templates that know them.
PLACEHOLDERS = ("<image>", "<video>", "<audio>")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a spec says of how its template writes."""

    #: Instead of the template's own way to write tools.
    tool_format: str | None = None
    #: System prompt of conversations that have none, instead of the template's; "" for none.
    default_system: str | None = None
    #: True: an answer without a thought learns an empty one; False: thoughts are taken out, and an empty one is given;
    #: None: thoughts stay, and an empty one is given where there is none.
    enable_thinking: bool | None = True
    #: Keep the thoughts of earlier answers in what the model reads.
    preserve_thinking: bool = False


@dataclass(frozen=True, kw_only=True)
class Template:
    name: str
    #: Source of the template, as in a tokenizer's `chat_template`.
    jinja: str
    #: Texts at which an answer ends, besides the model's own end of text.
    stop_words: tuple[str, ...]
    #: End-of-text token of a model that is trained with it; None: the model's own.
    eos_token: str | None
    #: Whether one end of text at the end of the conversation ends every answer in the loss.
    ends_once: bool
    #: Whether it is for models that think before they answer.
    reasoning: bool
    tool_format: str
    default_system: str
    #: Texts that a row must not have: they stand for what is not trained on.
    refused: tuple[str, ...]


def names() -> list[str]:
    """Every name that `template` may have."""
    return sorted([*ENTRIES, OWN])


def get(name: str, wording: Wording | None = None) -> Template:
    """The template of this name. Raises NotFound with the nearest name; the model's own is not here."""
    if name not in ENTRIES:
        raise NotFound("template {value}", field="template", value=complaint(name) or "is that of the model")
    entry, wording = ENTRIES[name], wording or Wording()
    return Template(
        name=name,
        jinja=_jinja(name, entry, wording),
        stop_words=entry.stops,
        eos_token=entry.stops[0] if entry.stop_is_eos else None,
        ends_once=entry.ends_once,
        reasoning=entry.thought is not None,
        tool_format=wording.tool_format or entry.tools,
        default_system=_system(name, wording),
        refused=PLACEHOLDERS if entry.media else (),
    )


def own(jinja: str, wording: Wording) -> str:
    """A model's own template with what a spec says of it; thinking is left to the template unless it is off."""
    # Each line ends without a dash: the newline goes by itself, what the template begins with stays.
    before = ""
    if wording.enable_thinking is False:
        before += "{%- set enable_thinking = enable_thinking | default(false) %}\n"
    if wording.default_system:
        system = f"[{{'role': 'system', 'content': {wording.default_system!r}}}]"
        before += "{%- if not messages or messages[0]['role'] != 'system' %}\n"
        before += f"    {{%- set messages = {system} + messages %}}\n{{%- endif %}}\n"
    return jinja if jinja.startswith(before) else before + jinja


def complaint(value: str) -> Message | None:
    """What is wrong with the name."""
    return registry.complaint(value, names(), {})


def settled(name: str | None) -> str | None:
    """The name as a spec keeps it: None wherever the model's own is meant."""
    return name if name in ENTRIES else None


def replacing(name: str | None) -> str | None:
    """The name where it may take the place of a finished model's own template: those made for pictures may not, they
    write the text alone."""
    entry = ENTRIES.get(name) if name else None
    return name if entry is not None and not entry.media else None


@cache
def systems() -> Mapping[str, str]:
    """System prompts of conversations that have none, by template."""
    found: dict[str, str] = json.loads(_read("systems.json"))
    return found


def _system(name: str, wording: Wording) -> str:
    return systems().get(name, "") if wording.default_system is None else wording.default_system


def _jinja(name: str, entry: Entry, wording: Wording) -> str:
    files = [*(f"words/{words}.jinja" for words in entry.words), f"tools/{wording.tool_format or entry.tools}.jinja"]
    parts = [_settings(name, entry, wording), *(_read(file) for file in files)]
    if wording.tool_format:
        # As LF has it: whoever changes the format loses the template's own words around a call.
        parts.append("{%- set call_words = ['', " + ("''" if entry.ends_once else "eos") + "] -%}\n")
    text = "".join([*parts, _read("conversation.jinja")]).rstrip("\n")
    # llama.cpp reads Jinja, too, but not this way to write a letter.
    return re.sub(r"(?<!\\)\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def _settings(name: str, entry: Entry, wording: Wording) -> str:
    """What the files look up; special tokens that a tokenizer lacks are written as nothing."""
    eos = repr(entry.stops[0]) if entry.stop_is_eos else "eos_token | default('', true)"
    lines = ["bos = bos_token | default('', true)", f"eos = {eos}", f"default_system = {_system(name, wording)!r}"]
    if entry.thought is not None:
        empty = "".join(entry.thought) if entry.empty_thought is None else entry.empty_thought
        thinking = {True: "true", False: "false", None: "none"}[wording.enable_thinking]
        keeping = str(wording.preserve_thinking).lower()
        lines += [
            f"thought = {list(entry.thought)!r}",
            f"empty_thought = {empty!r}",
            f"enable_thinking = enable_thinking | default({thinking})",
            f"preserve_thinking = preserve_thinking | default({keeping})",
        ]
    return "".join(f"{{%- set {line} -%}}\n" for line in lines)


def _read(file: str) -> str:
    return resources.files(__name__).joinpath(file).read_text(encoding="utf-8")
