"""Nothing is said in English alone: what lacks Chinese is listed, with the file of shared/tongues/zh where it goes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from shared import formats, methods, reading, schema, stages
from shared.param import Param
from shared.request import Envelope
from shared.spec import SPECS
from shared.tongues import chinese
from shared.unsupported import UNSUPPORTED, WITHOUT_EFFECT
from tests.unit.sentences import FIGURE

NAMED = re.compile(r"`[^`]+`")
KINDS = {**SPECS, "job": Envelope}
HINT = "parameters.json: a line for each, as those that are there; figures and `names` as in the English"


def declared() -> Iterator[tuple[str, Param]]:
    for kind, spec in KINDS.items():
        for param in schema.params(spec):
            yield kind, param


def marks(text: str) -> set[str]:
    return {*FIGURE.findall(text), *NAMED.findall(text)}


@pytest.mark.parametrize("part", ["doc", "advice", "picture"])
def test_what_is_said_of_a_parameter_is_said_in_chinese(part: str) -> None:
    lacking = {
        f"{kind}.{param.wire} {part}: {getattr(param, part)}"
        for kind, param in declared()
        if getattr(param, part) and not chinese.parameter(kind, param.wire).get(part)
    }
    assert not lacking, HINT


@pytest.mark.parametrize("part", ["doc", "advice", "picture"])
def test_the_chinese_of_a_parameter_has_the_figures_and_names_of_the_english(part: str) -> None:
    stale = {
        f"{kind}.{param.wire} {part}: {getattr(param, part)}"
        for kind, param in declared()
        if marks(getattr(param, part)) != marks(chinese.parameter(kind, param.wire).get(part, ""))
    }
    assert not stale, HINT


def test_beginners_have_a_picture_of_the_knobs_they_see_first() -> None:
    first = {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "cutoff_len", "lora_rank"}
    pictured = {param.wire for _, param in declared() if param.picture}
    assert first <= pictured and len(pictured) >= 20


def test_what_plug_ins_and_refusals_declare_has_its_chinese() -> None:
    docs = [made.doc for table in (stages.TABLE, methods.TABLE, formats.TABLE) for made in table.values()]
    refused = [text for made in UNSUPPORTED.values() for text in (made.reason, made.instead)]
    texts = {*docs, *refused, *WITHOUT_EFFECT.values(), *reading.FOREIGN.values()}
    assert not {text for text in texts if chinese.sentence(text) is None}, "refused.json or reference.json"
