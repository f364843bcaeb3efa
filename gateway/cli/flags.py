"""Command-line flags for every parameter of a spec, derived from its declarations: `--lora-rank 16`.

No parameter is named here. Values are only brought from text to their type; ranges, choices and rules are checked by
the server, whose complaints name the field. A flag overrides the same field of the file.
"""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.cli import show
from shared import request, schema
from shared.fields import Numbers
from shared.param import Param
from shared.requirements import Requirements
from shared.spec import SPECS, Sampling
from shared.tongues import chinese

PREFIX = "spec."
REQUIRED = "requires."


def add_spec(parser: ArgumentParser, spec: type, positional: str) -> None:
    """One flag per parameter, in the groups of the spec; none for secrets: the process list would show them."""
    # argparse would list all hundred of them here.
    parser.usage = f"%(prog)s {positional} [options] [--<parameter> VALUE ...]"
    groups: dict[str, Any] = {}
    kind = next(name for name, other in SPECS.items() if other is spec)
    for param in schema.params(spec):
        if param.secret:
            continue
        name = f"{param.path[0]} parameters" if len(param.path) > 1 else "parameters"
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        groups[name].add_argument(*_flags(param), dest=PREFIX + param.wire, help=_help(kind, param), **_kind(param))


def add_generation(parser: ArgumentParser, positional: str, *, preset: bool = True) -> None:
    """One flag per generation parameter of a request; what is left out the deployment decides. `preset`: whether one
    may lie below them."""
    parser.usage = f"%(prog)s {positional} [options] [--<parameter> VALUE ...]"
    group = parser.add_argument_group("generation parameters; left out: the deployment's, or the model's own")
    if preset:
        group.add_argument("--preset", dest=f"{PREFIX}preset", help="parameters kept on the server under this name")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other member of the request, in YAML"
    )
    for param in schema.params(Sampling):
        help = _help("generate", dataclasses.replace(param, default=None))
        group.add_argument(*_flags(param), dest=PREFIX + param.wire, help=help, **_kind(param))


def generation(args: Namespace) -> dict[str, Any]:
    """The members of a request that were given as flags."""
    pairs = (pair.partition("=") for pair in args.set)
    return given(args) | {name.strip(): value(text) for name, _, text in pairs}


def shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in parameters.items())


def value(text: str) -> Any:
    """As YAML 1.2 reads it: 0.2, true, [a, b], {"type": "json_object"}, else text."""
    return request.parse_yaml(f"value: {text}")["value"]


def add_requirements(parser: ArgumentParser) -> None:
    """What the worker must have; the number of devices is a parameter of its own (`--num-processes`)."""
    group = parser.add_argument_group("requirements")
    for param in schema.params(Requirements):
        if param.wire != "num_devices":
            group.add_argument(*_flags(param), dest=REQUIRED + param.wire, help=_help("job", param), **_kind(param))


def required(args: Namespace) -> dict[str, Any]:
    """The requirements that were given as flags."""
    return _given(args, REQUIRED)


def given(args: Namespace) -> dict[str, Any]:
    """The parameters that were given as flags, by wire name."""
    return _given(args, PREFIX)


def _given(args: Namespace, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in vars(args).items()
        if name.startswith(prefix) and value is not None
    }


def read_spec(file: str | None, args: Namespace, spec: type) -> dict[str, Any]:
    """The body to post: the YAML or JSON file (`-`: standard input), then the flags."""
    body: dict[str, Any] = {}
    if file is not None:
        text = Path("/dev/stdin" if file == "-" else file).read_text()
        body = request.parse_yaml(text)
    flags = given(args)
    for param in schema.params(spec):
        # The file may have used another name of the same field; the server refuses a field given twice.
        if param.wire in flags:
            body = {name: value for name, value in body.items() if name not in param.names}
    return body | flags


def _flags(param: Param) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in (param.wire, *param.aliases)]


def _kind(param: Param) -> dict[str, Any]:
    if param.type is bool:
        return {"nargs": "?", "const": True, "type": _parse(param), "metavar": "true|false"}
    return {"type": _parse(param), "metavar": _metavar(param)}


def _metavar(param: Param) -> str:
    if param.choices and sum(len(str(choice)) for choice in param.choices) < 60:
        return "|".join(str(choice) for choice in param.choices)
    return {int: "N", float: "X", list: "A,B", dict: "JSON"}.get(param.type, "TEXT")


def _help(kind: str, param: Param) -> str:
    doc = show.told({"message": param.doc, "message_zh": chinese.parameter(kind, param.wire).get("doc")})
    default = "" if param.required or param.default is None else f" (default {param.default})"
    return f"{doc}{default}".replace("%", "%%")


def _parse(param: Param) -> Callable[[str], Any]:
    """From the text of a flag to the value as YAML 1.2 would read it; texts and lists of names are never numbers."""

    def parse(text: str) -> Any:
        if param.type is str or isinstance(param.field, Numbers):
            return text
        if param.type is list:
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return value(text)
        except Exception as error:
            raise ArgumentTypeError(f"cannot be read: {text!r}") from error

    return parse
