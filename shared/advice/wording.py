"""Whether the template that a spec names is the model's own in other words: families, special tokens, texts compared.

A wrong template ruins a model silently, so every doubt is said aloud, with the template that would be right. The
model's own template is a stranger's program: it runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared import templates
from shared.advice.finding import Finding, Origin, info, warning
from shared.spec.data import Data
from shared.templates import Wording, families
from shared.templates.render import BadTemplate, Program, render
from shared.tongues import Text

LEAVE_OUT = Text("Leave template out: the model's own is used.")
NAME_ONE = Text("Leave it out, or name such a template.")
ASKED: list[dict[str, str]] = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A model."},
    {"role": "user", "content": "Really?"},
]
#: Conversations that both templates write; some models know no system prompt.
TALKS: list[list[dict[str, str]]] = [[{"role": "system", "content": "Be brief."}, *ASKED], ASKED]
#: Templates whose text is compared to find the right one.
MAX_CANDIDATES = 6
#: Characters that are shown of where two texts part.
SHOWN = 32


@dataclass(frozen=True, kw_only=True)
class Own:
    """What is known of the model's own way to talk."""

    name: str
    #: `model_type` of its config.
    model_type: str | None = None
    #: Its own chat template.
    jinja: str | None = None
    #: bos_token, eos_token ... as a template takes them.
    values: Mapping[str, Any] = field(default_factory=dict)
    #: Those of the special tokens in question that its tokenizer has; None: nobody looked.
    tokens: frozenset[str] | None = None


def wanted_tokens(template: str, name: str, model_type: str | None) -> frozenset[str]:
    """The special tokens that `Own.tokens` must tell of."""
    candidates = (template, *families.for_model(name, model_type))
    return frozenset().union(*(families.needs(candidate) for candidate in candidates))


def remarks(data: Data, own: Own) -> Iterator[Finding]:
    yield from _without_effect(data)
    if data.template is None:
        return
    right = families.for_model(own.name, own.model_type, own.tokens)
    lacking = sorted(families.needs(data.template) - own.tokens) if own.tokens is not None else []
    written = None if lacking else _own_texts(own, data.wording)
    if lacking:
        text = Text(
            "Template {template!r} writes {token}, which the tokenizer of {model!r} does not have.",
            template=data.template, token=lacking[0], model=own.name,
        )  # fmt: skip
        yield warning("template", Origin.REFERENCE, text, _advice(data.template, right))
    elif written is not None:
        yield from _compared(Compared(data=data, own=own, texts=written), right)
    elif families.out_of_place(data.template, own.model_type):
        text = Text(
            "Template {template!r} is not for models of family {family!r}, which {model!r} is.",
            template=data.template, family=own.model_type, model=own.name,
        )  # fmt: skip
        yield warning("template", Origin.REFERENCE, text, _advice(data.template, right))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the model's own template makes of a few conversations, to hold others against."""

    data: Data
    own: Own
    texts: Sequence[tuple[list[dict[str, str]], str]]

    def parted(self, template: str) -> str:
        """Where the template's text parts from the model's own; empty where they are the same."""
        made = templates.get(template, self.data.wording)
        values = {**self.own.values, **({"eos_token": made.eos_token} if made.eos_token else {})}
        program = Program(made.jinja)
        for talk, own in self.texts:
            written = program.render(talk, add_generation_prompt=True, **values)
            if written != own:
                return _where(written, own)
        return ""


def _without_effect(data: Data) -> Iterator[Finding]:
    thinks = data.template is not None and templates.get(data.template).reasoning
    if data.preserve_thinking and not thinks:
        text = Text("preserve_thinking has an effect only with a named template for models that think.")
        yield warning("preserve_thinking", Origin.REFERENCE, text, NAME_ONE)
    if data.enable_thinking is not True and data.template is not None and not thinks:
        text = Text("enable_thinking has an effect only with a template for models that think.")
        yield warning("enable_thinking", Origin.REFERENCE, text, NAME_ONE)


def _compared(compared: Compared, right: Sequence[str]) -> Iterator[Finding]:
    template = str(compared.data.template)
    where = compared.parted(template)
    if not where:
        return
    # Those that write special tokens of this tokenizer are the likelier.
    likely = sorted((one for one in right if one != template), key=lambda one: -len(families.needs(one)))
    same = next((one for one in likely[:MAX_CANDIDATES] if not compared.parted(one)), None)
    text = Text(
        "Template {template!r} does not write what the model's own does: {where}", template=template, where=where
    )
    if same is None and right and template == right[0]:
        # LF's own words for this model: not the model's own to the letter, but what its users train with.
        yield info("template", Origin.REFERENCE, text, LEAVE_OUT)
    else:
        # The family alone names several: none of them wrote what the model's own does.
        named = same or families.by_name(compared.own.name)
        yield warning("template", Origin.REFERENCE, text, _advice(template, [named] if named else []))


def _advice(template: str, right: Sequence[str]) -> Text:
    other = next((one for one in right if one != template), None)
    if other is None:
        return LEAVE_OUT
    return Text("Leave template out: the model's own is used. By name it is {right!r}.", right=other)


def _own_texts(own: Own, wording: Wording) -> list[tuple[list[dict[str, str]], str]] | None:
    if own.jinja is None:
        return None
    jinja = templates.own(own.jinja, wording)
    for talks in (TALKS, TALKS[1:]):
        try:
            texts = render(jinja, talks, seconds=2.0, add_generation_prompt=True, **own.values)
        except BadTemplate:
            continue
        return list(zip(talks, texts, strict=True))
    return None


def _where(written: str, own: str) -> Text:
    place = next((n for n, (a, b) in enumerate(zip(written, own, strict=False)) if a != b), min(len(written), len(own)))
    start = max(0, place - SHOWN // 2)
    first, second = (text[start : place + SHOWN] for text in (written, own))
    return Text("from character {place} on {written!r} instead of {own!r}", place=place, written=first, own=second)
