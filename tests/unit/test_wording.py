"""What is said of a template that is not the model's own: which is right, and where the texts part."""

from __future__ import annotations

from typing import Any

import pytest

from shared import schema, templates
from shared.advice.finding import Finding, Severity
from shared.advice.wording import Own, remarks
from shared.spec import TrainSpec
from shared.templates import families

QWEN3 = templates.get("qwen3_nothink").jinja
TOKENS = families.needs("qwen")


def found(own: Own, **data: Any) -> list[Finding]:
    spec = schema.load(TrainSpec, {"model_name_or_path": "m", "dataset": "d", **data})
    return list(remarks(spec.data, own))


def test_the_same_text_is_not_remarked_whatever_the_name() -> None:
    assert not found(Own(name="my-model", jinja=QWEN3, tokens=TOKENS), template="qwen3_nothink")
    assert not found(Own(name="llama-2", model_type="llama", jinja=QWEN3, tokens=TOKENS), template="smollm")


def test_another_text_is_warned_of_with_the_right_name_and_the_first_difference() -> None:
    own = Own(name="Qwen3-4B-Instruct-2507", model_type="qwen3", jinja=QWEN3, tokens=TOKENS)
    (told,) = found(own, template="alpaca")
    assert (told.severity, told.field) == (Severity.WARNING, "template")
    assert "from character 0 on" in told.message
    assert "By name it is 'qwen3" in told.advice


def test_a_default_system_prompt_that_differs_is_seen() -> None:
    own = Own(name="Qwen3-4B-Instruct-2507", model_type="qwen3", jinja=QWEN3, tokens=TOKENS)
    (told,) = found(own, template="qwen")
    assert "You are Qwen" in told.message and "By name it is 'qwen3_nothink'" in told.advice


def test_lfs_own_name_for_a_model_is_no_warning() -> None:
    jinja = QWEN3.replace("{{- prefix +", "{{- 'Hello ' + prefix +")
    own = Own(name="Qwen3-4B-Instruct-2507", model_type="qwen3", jinja=jinja, tokens=TOKENS)
    (told,) = found(own, template="qwen3_nothink")
    assert told.severity == Severity.INFO and "'Hello " in told.message


def test_a_family_of_several_templates_names_none_that_writes_another_text() -> None:
    jinja = templates.get("smollm2").jinja.replace("Hugging Face", "Somebody")
    (told,) = found(Own(name="ours", model_type="llama", jinja=jinja, tokens=TOKENS), template="smollm2")
    assert told.advice == "Leave template out: the model's own is used."


def test_tokens_that_the_tokenizer_lacks_are_named() -> None:
    (told,) = found(Own(name="m", model_type="qwen2", tokens=TOKENS), template="llama3")
    assert "<|end_header_id|>" in told.message and "'qwen'" in told.advice


def test_without_files_the_type_tells() -> None:
    (told,) = found(Own(name="m", model_type="qwen3"), template="llama2")
    assert "family 'qwen3'" in told.message and "By name it is 'qwen3'" in told.advice
    assert not found(Own(name="m", model_type="qwen3"), template="chatml")
    assert not found(Own(name="m"), template="llama2")


def test_a_model_that_knows_no_system_prompt_is_compared_without() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    own = Own(name="m", jinja=refuses + templates.get("gemma").jinja, tokens=families.needs("gemma"))
    assert not found(own, template="gemma")


def test_a_hostile_template_of_the_model_is_not_compared() -> None:
    own = Own(name="m", model_type="qwen2", jinja="{{ 9 ** 9 ** 9 }}", tokens=TOKENS)
    assert not found(own, template="qwen")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"preserve_thinking": True}, "preserve_thinking"),
        ({"preserve_thinking": True, "template": "qwen"}, "preserve_thinking"),
        ({"enable_thinking": False, "template": "qwen"}, "enable_thinking"),
        ({"enable_thinking": False, "template": "qwen3"}, None),
        ({"enable_thinking": False}, None),
        ({"preserve_thinking": True, "template": "deepseekr1"}, None),
    ],
)
def test_what_has_no_effect_is_told(data: dict[str, Any], field: str | None) -> None:
    assert [told.field for told in found(Own(name="m"), **data)] == ([field] if field else [])
