"""The reference of every parameter, generated: `python -m shared.reference > docs/parameters.md`.

Nothing is written here that is not declared elsewhere; a test asserts that the committed page is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from shared import deepspeed, formats, methods, schema, stages, templates
from shared.param import MISSING, Param
from shared.request import Envelope
from shared.spec import SPECS
from shared.unsupported import UNSUPPORTED, WITHOUT_EFFECT, Refused

TITLES = {"train": "Training", "export": "Export", "generate": "Generation", "deploy": "Deployments"}
INTRODUCTION = """# Parameters

Every field that a request may carry, in JSON or YAML. Names are LLaMA Factory's where it has one, so its YAML files
post as they are. Types are strict: `"4"` is not a number. Lists of names may be one string with commas. A field that is
left out takes its default; there is no other way to set it. This page is generated: `python -m shared.reference`.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION, *(_kind(kind, spec) for kind, spec in SPECS.items()), _envelope(), _choices(), _refused()]
    return "\n".join([*parts, _without_effect()])


def _kind(kind: str, spec: type) -> str:
    by_group = groupby(schema.params(spec), key=lambda param: param.path[0] if len(param.path) > 1 else "")
    tables = [(f"### {group}\n\n" if group else "") + _table(list(params)) for group, params in by_group]
    return f"## {TITLES[kind]}\n\n" + "\n".join(tables)


def _envelope() -> str:
    return "## Beside the parameters of a job\n\n" + _table(schema.params(Envelope))


def _table(params: Sequence[Param]) -> str:
    rows = [(_name(p), p.type.__name__, _default(p), _allowed(p), _meaning(p), p.advice, p.source) for p in params]
    return _markdown(("name", "type", "default", "allowed", "meaning", "advice", "from"), rows)


def _name(param: Param) -> str:
    others = [*(f"`{alias}`" for alias in param.aliases), *(f"`{old}` (deprecated)" for old in param.deprecated)]
    also = f" (also {', '.join(others)})" if others else ""
    return f"`{param.wire}`{also}"


def _default(param: Param) -> str:
    return "required" if param.default is MISSING else f"`{_value(param.default)}`"


def _value(value: Any) -> str:
    """As YAML would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (",".join(value) or "[]") if isinstance(value, list) else str(value)


def _allowed(param: Param) -> str:
    if param.choices:
        return ", ".join(f"`{choice}`" for choice in param.choices)
    low = "" if param.minimum is None else f"{'above' if param.exclusive_minimum else 'from'} {param.minimum}"
    high = "" if param.maximum is None else f"{'below' if param.exclusive_maximum else 'to'} {param.maximum}"
    return " ".join(part for part in (low, high) if part)


def _meaning(param: Param) -> str:
    notes = [f"Unit: {param.unit}." if param.unit else "", "Secret." if param.secret else ""]
    return " ".join(part for part in (param.doc, *notes) if part)


def _choices() -> str:
    """Names that come from plug-ins and files."""
    rows = [
        *((f"`{made.name}`", "stage", made.doc) for made in stages.TABLE.values()),
        *((f"`{made.name}`", "finetuning_type", made.doc) for made in methods.TABLE.values()),
        *((f"`{made.name}`", "export_format", made.doc) for made in formats.TABLE.values()),
        *((f"`{name}`", "template", "") for name in templates.names()),
        *((f"`{name}`", "deepspeed", "") for name in deepspeed.names()),
    ]
    return "## Names\n\n" + _markdown(("name", "of field", "meaning"), rows)


def _refused() -> str:
    rows = [(f"`{name}`", made.reason, made.instead, _off(made)) for name, made in UNSUPPORTED.items()]
    head = "## Known and refused\n\nAccepted only with null or with a value that asks for nothing.\n\n"
    return head + _markdown(("name", "why", "instead", "accepted"), rows)


def _off(made: Refused) -> str:
    return ", ".join(f"`{_value(value)}`" for value in made.off if value is not None)


def _without_effect() -> str:
    rows = [(f"`{name}`", why) for name, why in WITHOUT_EFFECT.items()]
    return "## Accepted without effect\n\n" + _markdown(("name", "why"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in _lines(head, rows))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
