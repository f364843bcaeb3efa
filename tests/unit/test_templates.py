"""Chat templates: what they write, and that one written by a stranger can do no harm."""

from __future__ import annotations

import time

import pytest

from shared import templates
from shared.errors import NotFound
from shared.templates import Wording
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


@pytest.mark.parametrize("name", NAMES)
def test_the_question_with_its_prompt_is_where_the_answer_begins(name: str) -> None:
    program = Program(templates.get(name).jinja)
    question = program.render(TALK[:-1], add_generation_prompt=True, **TOKENS)
    assert program.render(TALK, **TOKENS).startswith(question)


@pytest.mark.parametrize("name", NAMES)
def test_a_role_that_a_template_lacks_is_refused_not_dropped(name: str) -> None:
    with pytest.raises(BadTemplate, match="no role critic"):
        Program(templates.get(name).jinja).render([*TALK, {"role": "critic", "content": "x"}])


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


def test_several_results_in_a_row_share_one_turn_where_the_template_has_it_so() -> None:
    calls = [{"function": {"name": "f", "arguments": {}}}] * 2
    talk = [TALK[1], {"role": "assistant", "content": "", "tool_calls": calls}]
    talk += [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    text = Program(templates.get("qwen").jinja).render(talk)
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )
    assert (
        Program(templates.get("chatml").jinja)
        .render(talk)
        .endswith("<|im_start|>tool\n1<|im_end|>\n<|im_start|>tool\n2<|im_end|>\n")
    )


def test_arguments_that_came_as_text_are_written_as_they_are() -> None:
    call = {"function": {"name": "f", "arguments": '{"a":1}'}}
    text = Program(templates.get("qwen").jinja).render([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert '{"name": "f", "arguments": {"a":1}}' in text


def test_a_default_system_prompt_replaces_the_templates_and_may_be_none() -> None:
    rhyme = Program(templates.get("qwen", Wording(default_system="Rhyme.\n'\"")).jinja)
    assert rhyme.render(TALK[1:2]).startswith("<|im_start|>system\nRhyme.\n'\"<|im_end|>\n<|im_start|>user")
    assert rhyme.render(TALK[:2]).startswith("<|im_start|>system\nS<|im_end|>")
    assert (
        Program(templates.get("qwen", Wording(default_system="")).jinja)
        .render(TALK[1:2])
        .startswith("<|im_start|>user")
    )


def test_what_is_said_of_a_models_own_template_is_written_into_it() -> None:
    own = "{% for m in messages %}\n{{ m.role }}:{{ m.content }}\n{% endfor %}\n{{ enable_thinking | default('?') }}"
    said = Wording(default_system="Rhyme.", enable_thinking=False)
    made = templates.own(own, said)
    assert templates.own(own, Wording()) == own
    assert templates.own(made, said) == made
    assert Program(made).render(TALK[1:2]) == "system:Rhyme.\nuser:U1\nFalse"
    assert Program(made).render(TALK[:2], enable_thinking=True) == "system:S\nuser:U1\nTrue"


def test_the_place_of_marked_words_is_told() -> None:
    jinja = "a{% for m in messages %}{% generation %}<{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert Program(jinja).marked(TALK[:2]) == ("a<S|<U1|", [(1, 3), (4, 7)])


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
    assert render(templates.get("empty").jinja, [TALK, TALK[:2]]) == ["SU1A1U2A2", "SU1"]
