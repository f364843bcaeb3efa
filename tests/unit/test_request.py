"""YAML 1.2 without surprises, and the body of a request taken apart."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shared import request, yaml
from shared.errors import InvalidSpec, TooLarge
from shared.spec import ExportSpec, GenerateSpec, TrainSpec

SMALL = {"model_name_or_path": "base", "dataset": "facts"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5), ("1e-4", 1e-4), ("1.0e-4", 1e-4), (".5", 0.5), ("3.", 3.0), ("-1", -1), ("0x1F", 31),
        ("0o17", 15), ("010", 10), ("no", "no"), ("off", "off"), ("yes", "yes"), ("NO", "NO"), ("true", True),
        ("False", False),
        ("null", None), ("~", None), ("", None), ("'5'", "5"), ('"true"', "true"), ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"), ("1_000", "1_000"), ("<<", "<<"), ("[1, {a: b}]", [1, {"a": "b"}]), ("a,b", "a,b"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert yaml.parse(f"x: {text}") == {"x": value}


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1", "given twice"),
        ("a: &x 1\nb: *x", "line 1, column 4", "anchors"),
        ("a: [1]\nb: *x", "line 2, column 4", "anchors"),
        ("a: !!python/object:os.system x", "line 1, column 4", "tags"),
        ("a:\n  - 1\n - 2", "line 3, column 2", "expected"),
        ("a: [1", "line 1, column 6", "expected"),
        ("- 1", "line 1, column 1", "mapping"),
        ("just words", "line 1, column 1", "mapping"),
        ("", "line 1, column 1", "mapping"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "more than one document"),
        ("a: 1\nb: \x00", "line 2", "NUL"),
        ("? [a]\n: b", "line 1, column 3", "plain text"),
        ("a: " + "9" * 5000, "line 1, column 4", "digits"),
        ("a: " + "[" * 30 + "]" * 30, "line 1, column 23", "nested deeper"),
        ("a:\n\t- c", "line 2, column 1", "\\t"),
        ("a: [" + "1, " * 20_000 + "]", "line 1", "more than 5000 values"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, place: str, why: str) -> None:
    with pytest.raises(yaml.InvalidYaml) as caught:
        yaml.parse(text)
    assert caught.value.message.startswith(place)
    assert why in caught.value.message


def test_a_yaml_bomb_costs_nothing() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    started = time.process_time()
    with pytest.raises(yaml.InvalidYaml):
        yaml.parse("\n".join(lines))
    assert time.process_time() - started < 1


def test_a_document_that_is_too_large_is_not_read() -> None:
    with pytest.raises(TooLarge):
        yaml.parse("a: " + "x" * yaml.MAX_CHARS)


def test_the_envelope_is_split_from_the_fields_of_the_spec() -> None:
    body = {
        **SMALL,
        "name": "first",
        "priority": 5,
        "suffix": "v1",
        "metadata": {"a": "b"},
        "then": [{"kind": "export"}],
    }
    envelope, rest = request.split_envelope(body)
    assert rest == SMALL
    assert (envelope.kind, envelope.name, envelope.priority, envelope.suffix) == ("train", "first", 5, "v1")
    assert (envelope.metadata, envelope.then) == ({"a": "b"}, [{"kind": "export"}])


@pytest.mark.parametrize(
    ("body", "kind", "spec"),
    [
        (SMALL, "train", TrainSpec),
        ({**SMALL, "export_hf_on_finish": False}, "train", TrainSpec),
        ({"model_name_or_path": "m", "export_dir": "x"}, "export", ExportSpec),
        ({"model_name_or_path": "m", "kind": "export"}, "export", ExportSpec),
        ({"model": "m", "dataset": "d", "kind": "generate"}, "generate", GenerateSpec),
    ],
)
def test_the_kind_is_what_is_said_or_what_the_fields_say(body: dict[str, Any], kind: str, spec: type) -> None:
    envelope, made = request.load(body)
    assert envelope.kind == kind
    assert isinstance(made, spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "traine"), ("priority", "high"), ("priority", 101), ("suffix", "a b"), ("suffix", ""),
        ("suffix", "x" * 65),
        ("name", "x" * 257), ("metadata", {"a": 1}), ("metadata", {"a" * 65: "b"}),
        ("metadata", {str(n): "" for n in range(17)}),
        ("metadata", []), ("then", {}), ("then", ["export"]), ("then", [{"kind": "fly"}]), ("then", [{}]),
    ],
)  # fmt: skip
def test_a_wrong_envelope_is_refused_under_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        request.load({**SMALL, field: value})
    assert [made.field for made in caught.value.complaints] == [field]


def test_complaints_about_envelope_and_spec_come_together() -> None:
    with pytest.raises(InvalidSpec) as caught:
        request.load({"priority": "high", "lora_rank": 0, "dataset": "d"})
    assert {made.field for made in caught.value.complaints} == {"priority", "lora_rank", "model_name_or_path"}
