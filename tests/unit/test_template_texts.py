"""Every template writes, and learns, the very text that LLaMA Factory writes and learns.

`chat_texts.json` holds what LLaMA Factory makes of the conversations below: of a conversation pairs of (what is read,
what is learned), of a question the prompt. A case is named conversation/thinking/kind:
- thinking: on, off and data are enable_thinking true, false and null; kept is preserve_thinking.
- kind: multi (every answer is learned), masked (mask_history), pair (one answer to one prompt), prompt (as served).
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shared import templates
from shared.templates import Wording
from shared.templates._table import ENTRIES
from shared.templates.render import BadTemplate, Program

LF = json.loads((Path(__file__).parent / "chat_texts.json").read_text(encoding="utf-8"))
NAMES = [name for name in templates.names() if name != templates.OWN]
BOS, EOS = "<s>", "</s>"
THINKING: dict[str, dict[str, Any]] = {
    "on": {},
    "off": {"enable_thinking": False},
    "data": {"enable_thinking": None},
    "kept": {"preserve_thinking": True},
    "off_kept": {"enable_thinking": False, "preserve_thinking": True},
}


def function(name: str, about: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    function(
        "get_weather",
        "Weather of a city",
        {
            "city": {"type": "string", "description": "Name of the <city>"},
            "unit": {"type": "string", "description": "Scale", "enum": ["celsius", "kelvin"]},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
        required=["city"],
    ),
    function("now", "The time", {}),
]
SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = {"role": "user", "content": 'What\'s the weather in "Z\u00fcrich"?'}
SECOND = {"role": "user", "content": " And tomorrow?\n"}
THIRD = {"role": "user", "content": "Sure?"}
WEATHER = call("get_weather", city="Z\u00fcrich", days=[1, 2], exact=True, note=None, where={"b": 1.5, "a": "it's"})


def answer(content: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def result(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content}


def conversation(kind: str, name: str) -> list[dict[str, Any]]:
    """Thoughts are in the template's own words."""
    thought = "hm".join(ENTRIES[name].thought or ()) if ENTRIES[name].thought else ""
    sunny, rain = answer("Sunny."), answer("Rain.")
    return {
        "plain": [FIRST, sunny],
        "talk": [SYSTEM, FIRST, sunny, SECOND, answer("Rain.\n\nBring a coat.")],
        "thought": [SYSTEM, FIRST, answer(thought + "Sunny."), SECOND, rain, THIRD, answer(thought + "Yes.")],
        "first_thought": [FIRST, answer(thought + "Sunny."), SECOND, rain],
        "tools": [FIRST, answer("", WEATHER), result('{"sky": "blue"}'), sunny],
        "tools_system": [SYSTEM, FIRST, sunny, SECOND, answer(thought, WEATHER, call("now")), result("12:00"), rain],
    }[kind]


@cache
def program(jinja: str) -> Program:
    return Program(jinja, seconds=20)


def written(name: str, messages: list[dict[str, Any]], tools: Any, wording: Wording, **values: Any) -> Any:
    """Pairs of what is read and what is learned."""
    made = templates.get(name, wording)
    eos = made.eos_token or EOS
    text, places = program(made.jinja).marked(messages, tools=tools, bos_token=BOS, eos_token=eos, **values)
    pairs, position = [], 0
    for start, end in places:
        pairs.append([dated(text[position:start]), dated(text[start:end])])
        position = end
    assert position == len(text)
    pairs[-1][1] += eos if made.ends_once else ""
    return pairs


def dated(text: str) -> str:
    """Llama 3 tells the day."""
    return text.replace(f"Today Date: {datetime.now():%d %b %Y}", "Today Date: 01 Jan 2026")


def expected(found: Any) -> Any:
    """The texts that a case names by number."""
    if isinstance(found, int):
        return LF["texts"][found]
    return [[LF["texts"][read], LF["texts"][learned]] for read, learned in found]


def case(name: str, key: str) -> Any:
    kind, mode, how = key.split("/")
    # As a request says it when the model is served, so that one program serves all.
    said = {"enable_thinking": True, "preserve_thinking": False} | THINKING[mode]
    messages, tools = conversation(kind, name), TOOLS if kind.startswith("tools") else None
    if how == "prompt":
        tokens = {"bos_token": BOS, "eos_token": templates.get(name).eos_token or EOS}
        jinja = templates.get(name).jinja
        return dated(program(jinja).render(messages[:-1], tools=tools, add_generation_prompt=True, **tokens, **said))
    every_thought = how == "multi" or (how == "masked" and said["preserve_thinking"])
    pairs = written(name, messages, tools, Wording(), every_thought=every_thought, **said)
    if how == "pair":
        return [["".join(read + learned for read, learned in pairs[:-1]) + pairs[-1][0], pairs[-1][1]]]
    return pairs


def test_the_texts_are_of_every_template() -> None:
    assert list(LF["templates"]) == NAMES
    assert len(NAMES) == 124


@pytest.mark.parametrize("name", NAMES)
def test_a_template_writes_and_learns_what_llama_factory_does(name: str) -> None:
    for key, wanted in LF["templates"][name].items():
        if wanted == "refused":
            with pytest.raises(BadTemplate, match="one call at a time"):
                case(name, key)
        else:
            assert case(name, key) == expected(wanted), key


@pytest.mark.parametrize("key", LF["formats"])
def test_a_tool_format_replaces_the_templates_own(key: str) -> None:
    name, tool_format = key.split("/")
    found = written(name, conversation("tools", name), TOOLS, Wording(tool_format=tool_format), every_thought=True)
    assert found == expected(LF["formats"][key])


def test_every_tool_format_is_compared() -> None:
    assert {key.split("/")[1] for key in LF["formats"]} == set(templates.TOOL_FORMATS)


@pytest.mark.parametrize("mode", THINKING)
@pytest.mark.parametrize("name", ["qwen3", "deepseekr1", "glm4_7", "gpt_oss"])
def test_thinking_is_baked_in_or_asked_for_with_the_same_text(name: str, mode: str) -> None:
    baked = templates.get(name, Wording(**THINKING[mode])).jinja
    text = Program(baked).render(conversation("thought", name)[:-1], add_generation_prompt=True)
    assert text == Program(templates.get(name).jinja).render(
        conversation("thought", name)[:-1], add_generation_prompt=True, **THINKING[mode]
    )
