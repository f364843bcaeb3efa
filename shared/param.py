"""One hyper-parameter, declared once: type, range, default, what it means, what is advised, and where that comes from.

`param()` returns a plain dataclass field whose metadata holds a `Param` with one Marshmallow field. API check,
OpenAPI, command line flags, form and reference table all derive from it through `shared.schema`. Nothing is checked
here: a spec built by hand in a test is taken at its word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from marshmallow import fields

from shared import fields as strict
from shared.fields import Message

__all__ = ["MISSING", "Param", "group", "param", "plugged"]

FIELDS: dict[type, type[fields.Field[Any]]] = {
    int: strict.StrictInteger,
    float: strict.StrictFloat,
    bool: strict.StrictBoolean,
    str: strict.StrictString,
    list: strict.Names,
    dict: strict.StrictObject,
}


@dataclass(frozen=True, kw_only=True)
class Param:
    #: int, float, bool, str, list (of names) or dict.
    type: type
    #: MISSING: must be given.
    default: Any
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    choices: tuple[Any, ...] = ()
    #: What to set it to, in a sentence.
    advice: str = ""
    #: What it is like, for beginners: a metaphor in a sentence.
    picture: str = ""
    #: Where name, meaning and default come from: LF, HF, OpenAI, vLLM, DeepSpeed or ours.
    source: str = "LF"
    #: What the value names: "model", "dataset", "output", "deepspeed", "template"; None: plain value.
    kind: str | None = None
    #: Sealed apart from the spec and shown as `***`.
    secret: bool = False
    unit: str = ""
    #: Other names under which it may be sent.
    aliases: tuple[str, ...] = ()
    #: Names of before: accepted like aliases, with a warning that names the one of today.
    deprecated: tuple[str, ...] = ()
    #: `schema.SCHEMA_VERSION` that brought it: specs stored before get its default, which is what they did then.
    since: int = 1
    #: Flat name, unique in a spec; empty until `schema.params` binds it to its group.
    wire: str = ""
    #: Where the value lies in the spec, e.g. ("lora", "rank"); bound by `schema.params`.
    path: tuple[str, ...] = ()
    #: The Marshmallow field that checks one value.
    field: fields.Field[Any]

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def nullable(self) -> bool:
        """Whether null is a value of its own, not just what leaving out says."""
        return bool(self.field.allow_none) and not isinstance(self.default, list)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name under which it may be sent."""
        return (*self.aliases, *self.deprecated, self.wire)

    @property
    def default_value(self) -> Any:
        """A default that may be kept: lists and dicts are copies."""
        return self.default.copy() if isinstance(self.default, list | dict) else self.default


def param(
    default: Any,
    doc: str,
    *,
    type: type | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Any] = (),
    exclusive_minimum: bool = False,
    exclusive_maximum: bool = False,
    advice: str = "",
    picture: str = "",
    source: str = "LF",
    kind: str | None = None,
    secret: bool = False,
    unit: str = "",
    aliases: Sequence[str] = (),
    deprecated: Sequence[str] = (),
    since: int = 1,
    wire: str = "",
    nullable: bool = False,
    check: Callable[[Any], Message | None] | None = None,
    field_class: Callable[..., fields.Field[Any]] | None = None,
) -> Any:
    """Declare one hyper-parameter as a field of a dataclass. `type` may be left out where the default tells it."""
    kind_of = type or default.__class__
    validate = strict.validators(
        low=minimum,
        high=maximum,
        choices=choices,
        above=exclusive_minimum,
        below=exclusive_maximum,
        check=strict.label_complaint if kind == "output" else check,
    )
    field = (field_class or (strict.SecretString if secret else FIELDS[kind_of]))(
        required=default is MISSING,
        allow_none=nullable or default is None or isinstance(default, list),
        metadata={"description": _description(doc, unit, advice)},
        validate=validate,
        load_only=secret,
        error_messages={"required": "is required", "null": "is null: must have a value, or be left out"},
        **({} if default is MISSING else {"load_default": default}),
    )
    made = Param(
        type=kind_of, default=default, doc=doc, minimum=minimum, maximum=maximum, choices=tuple(choices),
        exclusive_minimum=exclusive_minimum, exclusive_maximum=exclusive_maximum, advice=advice, picture=picture,
        source=source, kind=kind, secret=secret, unit=unit, aliases=tuple(aliases), deprecated=tuple(deprecated),
        since=since, wire=wire, field=field,
    )  # fmt: skip
    return _dataclass_field(made)


def group(cls: type, *, prefix: str = "") -> Any:
    """Declare a group of parameters as a field of a spec; `prefix` goes before the wire name of each."""
    return dataclasses.field(default_factory=cls, metadata={"group": cls, "prefix": prefix})


def plugged(*tables: Mapping[str, Any]) -> Any:
    """Declare the parameters that plug-ins bring along: a mapping from a plug-in's name to its group."""
    groups = {name: made.params for table in tables for name, made in table.items() if made.params is not None}
    return dataclasses.field(
        default_factory=lambda: {name: cls() for name, cls in groups.items()}, metadata={"plugged": groups}
    )


def _dataclass_field(made: Param) -> Any:
    metadata = {"param": made}
    if made.required:
        return dataclasses.field(metadata=metadata)
    if isinstance(made.default, list | dict):
        return dataclasses.field(default_factory=made.default.copy, metadata=metadata)
    return dataclasses.field(default=made.default, metadata=metadata)


def _description(doc: str, unit: str, advice: str) -> str:
    return " ".join(
        part for part in (doc, f"Unit: {unit}." if unit else "", f"Advice: {advice}" if advice else "") if part
    )
