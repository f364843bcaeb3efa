"""Every sentence that shared and gateway hand to users keeps its values apart and has its Chinese."""

from __future__ import annotations

import ast
import dataclasses

from shared import schema
from shared.advice.memory import Memory
from shared.request import Envelope
from shared.spec import SPECS
from shared.tongues import chinese
from shared.unsupported import UNSUPPORTED
from tests.unit.sentences import ROOT, Sentence, sentences

#: Read by administrators on the server, not by users of the API.
OF_THE_SERVER = {"artifact.py", "broker.py", "checkpoints.py", "interpreters.py", "cli", "admin", "demo"}
SOURCES = [
    path
    for package in ("shared", "gateway", "export_worker/child", "inference_worker/child")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.relative_to(ROOT).parts[1] not in OF_THE_SERVER
]


def said() -> list[Sentence]:
    return [sentence for path in SOURCES for sentence in sentences(path)]


def test_no_sentence_is_fused_with_its_values() -> None:
    fused = [f"{sentence.place} {sentence.template}" for sentence in said() if sentence.fused]
    assert not fused, 'keep the values apart: Text("is {value}: must be ...", value=value)'


def test_every_sentence_has_its_chinese() -> None:
    known = {english for name in chinese.TEMPLATES for english in chinese.read(name)}
    whole = {sentence.template: sentence.place for sentence in said() if not sentence.fused}
    lacking = {template: place for template, place in whole.items() if template not in known}
    assert not lacking, "findings.json or errors.json: a line for each, with the same {placeholders} and figures"


def test_sentences_are_found_where_they_are_said() -> None:
    found = {sentence.template for sentence in said()}
    assert {
        "is {value}: must be a whole number",  # a field's
        "is a kind of packing: leave packing out, or set it to true",  # a rule's
        "must be a list of messages",  # a row's
        "The effective batch is {size} x {steps} x {devices} = {batch}.",  # a finding's
        "There is no job {job_id!r} in this project",  # an error's
        "lies on ModelScope, which is not asked: download its files and upload them",  # one of a table
    } <= found
    assert len(found) > 300


def test_no_chinese_is_left_of_what_is_no_longer_said() -> None:
    written = {
        node.value
        for package in ("shared", "gateway", "export_worker/child", "inference_worker/child")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    put_together = {text for made in UNSUPPORTED.values() for text in (made.reason, made.instead)}
    docstrings = {text.strip() for text in written}
    parts = {field.name for field in dataclasses.fields(Memory)}
    said = written | docstrings | put_together | parts
    assert not {english for name in chinese.TEMPLATES for english in chinese.read(name)} - said
    kinds = {**SPECS, "job": Envelope}
    names = {param.wire for spec in kinds.values() for param in schema.params(spec)}
    assert not {name for name in chinese.read("parameters") if name.rpartition(".")[2] not in names}
