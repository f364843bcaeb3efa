"""The reference of every parameter, generated: `python -m shared.reference > docs/parameters.md`.

`python -m shared.reference zh` makes docs/parameters.zh.md, the same page in Chinese. Nothing is written here that is
not declared elsewhere; a test asserts that the committed pages are current.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from shared import deepspeed, formats, methods, schema, stages
from shared.param import MISSING, Param
from shared.request import Envelope
from shared.spec import SPECS
from shared.tongues import Text, chinese
from shared.unsupported import UNSUPPORTED, WITHOUT_EFFECT, Refused

TITLES = {
    "train": "Training",
    "export": "Export",
    "generate": "Generation",
    "evaluate": "Evaluation",
    "push": "Push to the Hub",
    "deploy": "Deployments",
}
INTRODUCTION = """# Parameters

Every field that a request may carry, in JSON or YAML. Names are LLaMA Factory's where it has one, so its YAML files
post as they are. Types are strict: `"4"` is not a number. Lists of names may be one string with commas. A field that is
left out takes its default; there is no other way to set it. This page is generated: `python -m shared.reference`.
"""
REFUSED = "Accepted only with null or with a value that asks for nothing."


@dataclass(frozen=True, kw_only=True)
class Tongue:
    #: A sentence of the page in this tongue.
    say: Callable[[str], str]
    #: `doc`, `advice` and `picture` of a parameter of a kind of job.
    of: Callable[[str, Param], Mapping[str, str]]


def _english(kind: str, param: Param) -> Mapping[str, str]:
    return {"doc": param.doc, "advice": param.advice, "picture": param.picture}


def _chinese(kind: str, param: Param) -> Mapping[str, str]:
    return {**_english(kind, param), **chinese.parameter(kind, param.wire)}


TONGUES = {
    "en": Tongue(say=str, of=_english),
    "zh": Tongue(say=lambda text: chinese.sentence(text) or text, of=_chinese),
}


def page(name: str = "en") -> str:
    """The whole page as Markdown, in English or Chinese."""
    tongue = TONGUES[name]
    kinds = [_kind(tongue, kind, spec) for kind, spec in SPECS.items()]
    parts = [tongue.say(INTRODUCTION), *kinds, _envelope(tongue), _choices(tongue), _refused(tongue)]
    return "\n".join([*parts, _without_effect(tongue)])


def _kind(tongue: Tongue, kind: str, spec: type) -> str:
    by_group = groupby(schema.params(spec), key=lambda param: param.path[0] if len(param.path) > 1 else "")
    tables = [(f"### {group}\n\n" if group else "") + _table(tongue, kind, list(params)) for group, params in by_group]
    return f"## {tongue.say(TITLES[kind])}\n\n" + "\n".join(tables)


def _envelope(tongue: Tongue) -> str:
    title = tongue.say("Beside the parameters of a job")
    return f"## {title}\n\n" + _table(tongue, "job", schema.params(Envelope))


def _table(tongue: Tongue, kind: str, params: Sequence[Param]) -> str:
    head = ("name", "type", "default", "allowed", "meaning", "advice", "from")
    return _markdown(tongue, head, [_row(tongue, param, tongue.of(kind, param)) for param in params])


def _row(tongue: Tongue, param: Param, words: Mapping[str, str]) -> tuple[str, ...]:
    meaning, picture = _meaning(tongue, param, words), words["picture"]
    told = f"{meaning} *{picture}*" if picture else meaning
    default, allowed = _default(tongue, param), _allowed(tongue, param)
    return _name(tongue, param), param.type.__name__, default, allowed, told, words["advice"], param.source


def _name(tongue: Tongue, param: Param) -> str:
    old = [tongue.say(Text("{name} (deprecated)", name=f"`{name}`")) for name in param.deprecated]
    others = ", ".join([*(f"`{alias}`" for alias in param.aliases), *old])
    return f"`{param.wire}`" + (tongue.say(Text(" (also {others})", others=others)) if others else "")


def _default(tongue: Tongue, param: Param) -> str:
    return tongue.say("required") if param.default is MISSING else f"`{_value(param.default)}`"


def _value(value: Any) -> str:
    """As YAML would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (",".join(value) or "[]") if isinstance(value, list) else str(value)


def _allowed(tongue: Tongue, param: Param) -> str:
    if param.kind == "template":
        return f"[{tongue.say('names')}](templates.md)"
    if param.choices:
        return ", ".join(f"`{choice}`" for choice in param.choices)
    low = Text("above {low}" if param.exclusive_minimum else "from {low}", low=param.minimum)
    high = Text("below {high}" if param.exclusive_maximum else "to {high}", high=param.maximum)
    bounds = ((param.minimum, low), (param.maximum, high))
    return " ".join(tongue.say(text) for bound, text in bounds if bound is not None)


def _meaning(tongue: Tongue, param: Param, words: Mapping[str, str]) -> str:
    unit = tongue.say(Text("Unit: {unit}.", unit=Text(param.unit))) if param.unit else ""
    return " ".join(part for part in (words["doc"], unit, tongue.say("Secret.") if param.secret else "") if part)


def _choices(tongue: Tongue) -> str:
    """Names that come from plug-ins and files."""
    rows = [
        *((f"`{made.name}`", "stage", tongue.say(made.doc)) for made in stages.TABLE.values()),
        *((f"`{made.name}`", "finetuning_type", tongue.say(made.doc)) for made in methods.TABLE.values()),
        *((f"`{made.name}`", "export_format", tongue.say(made.doc)) for made in formats.TABLE.values()),
        *((f"`{name}`", "deepspeed", "") for name in deepspeed.names()),
    ]
    return f"## {tongue.say('Names')}\n\n" + _markdown(tongue, ("name", "of field", "meaning"), rows)


def _refused(tongue: Tongue) -> str:
    rows = [
        (f"`{name}`", tongue.say(made.reason), tongue.say(made.instead), _off(made))
        for name, made in UNSUPPORTED.items()
    ]
    head = f"## {tongue.say('Known and refused')}\n\n{tongue.say(REFUSED)}\n\n"
    return head + _markdown(tongue, ("name", "why", "instead", "accepted"), rows)


def _off(made: Refused) -> str:
    return ", ".join(f"`{_value(value)}`" for value in made.off if value is not None)


def _without_effect(tongue: Tongue) -> str:
    rows = [(f"`{name}`", tongue.say(why)) for name, why in WITHOUT_EFFECT.items()]
    return f"## {tongue.say('Accepted without effect')}\n\n" + _markdown(tongue, ("name", "why"), rows)


def _markdown(tongue: Tongue, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in _lines([tongue.say(word) for word in head], rows))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(page(*sys.argv[1:2]))
