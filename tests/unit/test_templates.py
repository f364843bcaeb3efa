"""Chat templates: what they write, and that one written by a stranger can do no harm."""

from __future__ import annotations

import time

import pytest

from shared import templates
from shared.errors import NotFound
from shared.templates.render import BadTemplate, Program, render

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2"},
    {"role": "assistant", "content": "A2"},
]
NAMES = [name for name in templates.names() if name != templates.OWN]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
EXPECTED = {
    "qwen": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA2<|eot_id|>",
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST] A2 </s>",
    "mistral": "<s>[INST] S\n\nU1[/INST] A1</s>[INST] U2[/INST] A2</s>",
    "gemma": "<s><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\nA2<end_of_turn>\n",
    "alpaca": "S\n\n### Instruction:\nU1\n\n### Response:\nA1</s>\n\n### Instruction:\nU2\n\n### Response:\nA2</s>\n\n",
    "default": "System: S</s>\nHuman: U1</s>\nAssistant:A1</s>\nHuman: U2</s>\nAssistant:A2</s>\n",
    "empty": "SU1A1</s>U2A2</s>",
    "deepseekr1": "<s>S<\uff5cUser\uff5c>U1<\uff5cAssistant\uff5c>A1<\uff5cend\u2581of\u2581sentence\uff5c>"
    "<\uff5cUser\uff5c>U2<\uff5cAssistant\uff5c><think>\n\n</think>\n\nA2<\uff5cend\u2581of\u2581sentence\uff5c>",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_conversation_is_written_as_the_model_was_taught(name: str) -> None:
    assert Program(templates.get(name).jinja).render(TALK, **TOKENS) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_question_with_its_prompt_is_where_the_answer_begins(name: str) -> None:
    program = Program(templates.get(name).jinja)
    question = program.render(TALK[:-1], add_generation_prompt=True, **TOKENS)
    assert program.render(TALK, **TOKENS).startswith(question)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "empty"])
def test_a_role_that_a_template_lacks_is_refused_not_dropped(name: str) -> None:
    with pytest.raises(BadTemplate, match="no role tool"):
        Program(templates.get(name).jinja).render([*TALK, {"role": "tool", "content": "x"}])


def test_a_conversation_without_a_system_prompt_gets_the_templates_own() -> None:
    program = Program(templates.get("qwen").jinja)
    assert program.render(TALK[1:2]).startswith("<|im_start|>system\nYou are Qwen")
    assert program.render(TALK[1:2], add_generation_prompt=True).endswith("<|im_start|>assistant\n")


def test_thoughts_of_earlier_answers_are_left_out() -> None:
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA1"}
    text = Program(templates.get("deepseekr1").jinja).render([TALK[1], answer, TALK[3], answer])
    assert text.count("hm") == 1


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'llama3'"):
        templates.get("lama3")


def test_every_shipped_template_is_a_name_that_lf_knows() -> None:
    assert set(NAMES) <= templates.LATER


def test_a_template_may_mark_the_assistants_words_and_leave_loops() -> None:
    words = "{% generation %}{{ m.content }}{% endgeneration %}"
    jinja = "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}" + words + "{% endfor %}"
    assert Program(jinja).render(TALK) == "SU1"


def test_json_is_written_without_html_escapes() -> None:
    assert Program("{{ {'a': '<b>'} | tojson }}").render([]) == '{"a": "<b>"}'


@pytest.mark.parametrize(
    "jinja",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 10 ** 9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception('no') }}",
        "{% if %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_hostile_template_is_stopped_in_this_process(jinja: str) -> None:
    started = time.monotonic()
    with pytest.raises(BadTemplate):
        Program(jinja, seconds=0.2).render(TALK)
    assert time.monotonic() - started < 2


def test_a_template_cannot_eat_the_memory_of_a_process_of_its_own() -> None:
    doubling = (
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s | length }}"
    )
    with pytest.raises(BadTemplate):
        render(doubling, [TALK], seconds=1.0)


def test_conversations_are_rendered_in_a_process_of_its_own() -> None:
    assert render(templates.get("empty").jinja, [TALK, TALK[:2]], eos_token="|") == ["SU1A1|U2A2|", "SU1"]
