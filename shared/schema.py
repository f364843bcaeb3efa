"""The only door: outside data becomes a frozen spec here, or every complaint about it at once.

`load` checks types, ranges and choices (Marshmallow, one field per parameter), then the rules between fields, then
writes out the defaults that depend on other values. `from_stored` trusts what `to_wire` wrote: today's defaults and
rules never touch a spec that was accepted before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from marshmallow import RAISE, Schema, ValidationError

from shared import methods, stages, unread
from shared.errors import Complaint, InvalidSpec, TunesmithError
from shared.nearest import did_you_mean
from shared.param import Param
from shared.rules import INVALID, Invalid, broken, complaint
from shared.spec import SPECS
from shared.spec.conflicts import RULES
from shared.tongues import Text
from shared.unsupported import LF_DEFAULTS, UNSUPPORTED, WITHOUT_EFFECT, is_off

#: Version of what `to_wire` writes; raised together with an entry in UPGRADES.
SCHEMA_VERSION = 5
#: From a version to the next: what happens to fields that are kept but read otherwise. New ones say `since`.
UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
#: More than every name there is.
MAX_FIELDS = 1_000
#: Unknown names for which the nearest is looked for: it takes about a millisecond each.
MAX_HINTS = 20
#: Complaints that are told one by one: more would be a file of them.
MAX_COMPLAINTS = 100
#: What a secret looks like from outside.
MASK = "***"

Spec = TypeVar("Spec")


class UnreadableSpec(TunesmithError):
    """A stored spec was written by another version of the platform."""

    code = "unreadable_spec"


def load(spec_type: type[Spec], body: Mapping[str, Any], *, partial: bool = False) -> Spec:
    """The spec that the body describes. Raises InvalidSpec with every complaint; `partial` lets required ones lack."""
    given, complaints = _named(spec_type, _gathered(spec_type, body))
    values, wrong = _checked(spec_type, given, partial)
    spec = _built(spec_type, values)
    complaints += [*wrong, *_broken_rules(spec)]
    if complaints:
        raise refusal(complaints)
    resolved: Spec = spec.resolved()  # type: ignore[attr-defined]
    return resolved


def _gathered(spec_type: type, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec may take what is written flat into a field that holds it."""
    check_size(body)
    gathered: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = getattr(spec_type, "gathered", None)
    return body if gathered is None else gathered(body)


def amended(spec_type: type[Spec], stored: Mapping[str, Any], body: Mapping[str, Any]) -> Spec:
    """The stored spec with the body's values in place of its own, checked as a new one; null means the default."""
    given, complaints = _named(spec_type, _gathered(spec_type, body))
    if complaints:
        raise refusal(complaints)
    values = to_wire(from_stored(spec_type, stored)) | given
    defaults = {param.wire for param in params(spec_type) if values.get(param.wire) is None and not param.nullable}
    return load(spec_type, {name: value for name, value in values.items() if name not in defaults})


def to_wire(spec: Any) -> dict[str, Any]:
    """The spec as one flat JSON object, every default written out, secrets masked."""
    wire: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for param in params(type(spec)):
        value = _value(spec, param)
        wire[param.wire] = MASK if param.secret and value is not None else value
    return wire


def changed(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """The spec with other values, by wire name; they are not checked."""
    held = {param.wire: _value(spec, param) for param in params(type(spec))}
    return _built(type(spec), held | dict(values)) if values else spec


def secrets(spec: Any) -> dict[str, str]:
    """The secret values by wire name, to be sealed apart from the spec."""
    held = {param.wire: _value(spec, param) for param in params(type(spec)) if param.secret}
    return {name: value for name, value in held.items() if value is not None}


def from_stored(spec_type: type[Spec], stored: Mapping[str, Any]) -> Spec:
    """The spec that `to_wire` wrote. Raises UnreadableSpec where its fields are not exactly this version's."""
    wire = _upgraded(spec_type, dict(stored))
    expected = {param.wire for param in params(spec_type)}
    if wire.keys() != expected:
        differing = ", ".join(sorted(wire.keys() ^ expected))
        raise UnreadableSpec(f"the stored {spec_type.__name__} and this version differ in: {differing}")
    return _built(spec_type, wire)


def params(spec_type: type) -> tuple[Param, ...]:
    """Every parameter of a spec, bound to its wire name and its place."""
    return _tables(spec_type)[0]


def marshmallow_schema(spec_type: type) -> type[Schema]:
    """The spec as one flat Marshmallow schema, from which OpenAPI is made."""
    return _tables(spec_type)[1]


@cache
def _read(spec_type: Any) -> tuple[tuple[Param, ...], type[Schema], dict[str, str]]:
    """What is derived from the declarations once: parameters, schema, every name a client may use -> wire name."""
    bound = tuple(_bound(spec_type, (), ""))
    made = Schema.from_dict({param.wire: param.field for param in bound}, name=spec_type.__name__)
    made.opts.unknown = RAISE
    return bound, made, {name: param.wire for param in bound for name in param.names}


def _tables(spec_type: Any) -> tuple[tuple[Param, ...], type[Schema], dict[str, str]]:
    # Any: mypy does not take the type of a dataclass for hashable, which the cache asks for.
    return _read(spec_type)


def _bound(owner: type, path: tuple[str, ...], prefix: str) -> Iterator[Param]:
    for field in dataclasses.fields(owner):
        place = (*path, field.name)
        if "group" in field.metadata:
            yield from _bound(field.metadata["group"], place, field.metadata["prefix"])
        elif "plugged" in field.metadata:
            for name, inner in field.metadata["plugged"].items():
                yield from _bound(inner, (*place, name), "")
        else:
            param: Param = field.metadata["param"]
            yield dataclasses.replace(param, wire=param.wire or prefix + field.name, path=place)


def _named(spec_type: type, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[Complaint]]:
    """What was given, under wire names; complaints about names that are unknown, unsupported or given twice."""
    known = _names(spec_type)
    given: dict[str, Any] = {}
    #: Wire name -> the name that it was sent under.
    under: dict[str, str] = {}
    complaints: list[Complaint] = []
    for name, value in body.items():
        wire = known.get(name)
        if wire is None:
            complaints += _foreign(spec_type, name, value, hint=len(complaints) < MAX_HINTS)
        elif wire in given:
            text = Text(
                "is given twice: {first!r} and {second!r} are names of one field", first=under[wire], second=name
            )
            complaints.append(Complaint(field=wire, message=text))
        else:
            given[wire], under[wire] = value, name
    return given, complaints


def check_size(body: Mapping[str, Any]) -> None:
    """Raises InvalidSpec for a body with more fields than could be looked through in time."""
    if len(body) > MAX_FIELDS:
        message = Text("has {count} fields: at most {most}", count=len(body), most=MAX_FIELDS)
        raise refusal([Complaint(field="body", message=message)])


def _names(spec_type: type) -> dict[str, str]:
    return _tables(spec_type)[2]


def _foreign(spec_type: type, name: Any, value: Any, *, hint: bool) -> list[Complaint]:
    """The complaint about a name that this spec does not have; none where it can have no effect."""
    refused = UNSUPPORTED.get(name) if isinstance(name, str) else None
    if name == "schema_version" or name in WITHOUT_EFFECT or (refused is not None and is_off(refused, value)):
        return []
    if refused is not None:
        return [Complaint(field=name, message=refused.message, code="unsupported")]
    owners = {kind: other for kind, other in SPECS.items() if other is not spec_type and name in _names(other)}
    if any(_asks_for_nothing(other, name, value) for other in owners.values()) or is_unread(spec_type, name, value):
        return []
    if owners:
        message = Text("is a field of {kinds}, not of this kind of job", kinds=" and ".join(owners))
        return [Complaint(field=name, message=message, code="unsupported")]
    near = did_you_mean(str(name), _names(spec_type)) if hint else ""
    return [Complaint(field=str(name)[:200], message=Text("is unknown{near}", near=near), code="unknown_field")]


def is_unread(spec_type: type, name: str, value: Any) -> bool:
    """Whether it asks for something of a training that this kind of job, as LF, takes and does not read."""
    if spec_type is not SPECS["export"] or name not in _names(SPECS["train"]):
        return False
    found = next(param for param in params(SPECS["train"]) if name in param.names)
    return unread.by_export(found, value) and not _asks_for_nothing(SPECS["train"], name, value)


def _asks_for_nothing(owner: type, name: str, value: Any) -> bool:
    """Whether a field of another kind of job has the value that it has there when it is left out: files that write
    everything out post as they are."""
    param = next(param for param in params(owner) if name in param.names)
    defaults = (param.default, LF_DEFAULTS.get(name, param.default))
    same = any(value == default and isinstance(value, bool) == isinstance(default, bool) for default in defaults)
    return value is None or (same and not param.required)


def _checked(spec_type: type, given: dict[str, Any], partial: bool) -> tuple[dict[str, Any], list[Complaint]]:
    """A value for every parameter: the checked one, the default, or INVALID where there is a complaint."""
    values = {param.wire: param.default_value for param in params(spec_type)}
    complaints: list[Complaint] = []
    try:
        checked = marshmallow_schema(spec_type)(partial=partial).load(given)
    except ValidationError as error:
        checked = error.valid_data if isinstance(error.valid_data, dict) else {}
        complaints = list(_complaints(error.messages_dict))
    for param in params(spec_type):
        said = checked.get(param.wire) is not None or (param.wire in checked and param.nullable)
        if param.wire in given and said:
            values[param.wire] = checked[param.wire]
        if param.required and param.wire not in checked:
            values[param.wire] = None if partial and param.wire not in given else INVALID
    return {**values, **{wrong.field: INVALID for wrong in complaints}}, complaints


def _complaints(messages: Mapping[str, Any]) -> Iterator[Complaint]:
    for field, found in messages.items():
        for message in _flat(found):
            code = getattr(message, "code", "required" if message == "is required" else "invalid_value")
            yield Complaint(field=field, message=message, code=code)


def _flat(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    else:
        for inner in found.values() if isinstance(found, dict) else found:
            yield from _flat(inner)


def _built(owner: type[Spec], values: Mapping[str, Any]) -> Spec:
    return _assembled(owner, {param.path: values[param.wire] for param in params(owner)}, ())


def _assembled(owner: type[Spec], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> Spec:
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        place = (*path, field.name)
        if "group" in field.metadata:
            arguments[field.name] = _assembled(field.metadata["group"], values, place)
        elif "plugged" in field.metadata:
            groups = field.metadata["plugged"].items()
            arguments[field.name] = {name: _assembled(inner, values, (*place, name)) for name, inner in groups}
        else:
            arguments[field.name] = values[place]
    return owner(**arguments)


def _value(spec: Any, param: Param) -> Any:
    for name in param.path:
        spec = spec[name] if isinstance(spec, Mapping) else getattr(spec, name)
    return spec


def _broken_rules(spec: Any) -> list[Complaint]:
    """Complaints of the rules of the spec, of its groups and between them, of the stage and method that it names."""
    owners = [spec, *(getattr(spec, f.name) for f in dataclasses.fields(spec) if "group" in f.metadata)]
    owners += getattr(spec, "plugged", {}).values()
    found = [made for owner in owners for made in broken(owner)]
    return found + [made for check in _declared_rules(spec) if (made := complaint(check, spec)) is not None]


def _declared_rules(spec: Any) -> list[Any]:
    tuning = getattr(spec, "tuning", None)
    if tuning is None:
        return []
    named = ((stages.TABLE, tuning.stage), (methods.TABLE, tuning.finetuning_type))
    declared = [check for table, name in named if not isinstance(name, Invalid) for check in table[name].rules]
    return [*RULES, *declared]


def _upgraded(spec_type: type, wire: dict[str, Any]) -> dict[str, Any]:
    version = wire.pop("schema_version", None)
    if version not in range(1, SCHEMA_VERSION + 1):
        read = f"this version reads 1 to {SCHEMA_VERSION}"
        raise UnreadableSpec(f"the stored spec has schema_version {version!r}: {read}")
    for step in range(version, SCHEMA_VERSION):
        wire = UPGRADES[step](wire) if step in UPGRADES else wire
    added = {param.wire: param.default_value for param in params(spec_type) if param.since > version}
    return {**added, **wire}


def refusal(complaints: list[Complaint]) -> InvalidSpec:
    """The error that carries all of them, up to MAX_COMPLAINTS, and tells the first three."""
    told = "; ".join(f"{made.field} {made.message}" for made in complaints[:3])
    more = f"; and {len(complaints) - 3} more" if len(complaints) > 3 else ""
    return InvalidSpec(f"{told}{more}", complaints=complaints[:MAX_COMPLAINTS])
