"""Which of vLLM's parsers takes calls and thoughts out of a model's answers: found in the words of its chat template.

A template shows how its model writes a call or a thought. Several parsers look for special tokens besides, and without
them vLLM does not start: they must be in the vocabulary. Where nothing is sure nothing is chosen: answers are then
passed on as the model wrote them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Says that the parser is to be found here, and that there shall be none.
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class Parser:
    #: What vLLM calls it.
    name: str
    #: All of them are in templates of its models.
    words: tuple[str, ...]
    #: None of them is.
    without: tuple[str, ...] = ()
    #: Tokens that it looks for.
    tokens: tuple[str, ...] = ()


#: In the order in which they are looked for: the special before the general.
TOOLS = (
    Parser(name="openai", words=("<|channel|>", "<|message|>", "tools"), tokens=("<|channel|>", "<|call|>")),
    Parser(name="mistral", words=("[TOOL_CALLS]",), tokens=("[TOOL_CALLS]",)),
    Parser(name="kimi_k2", words=("<|tool_calls_section_begin|>",), tokens=("<|tool_calls_section_begin|>",)),
    Parser(
        name="deepseek_v3", words=("<\uff5ctool\u2581calls\u2581begin\uff5c>", "```json"),
        tokens=("<\uff5ctool\u2581calls\u2581begin\uff5c>",),
    ),
    Parser(
        name="deepseek_v31", words=("<\uff5ctool\u2581calls\u2581begin\uff5c>",),
        tokens=("<\uff5ctool\u2581calls\u2581begin\uff5c>",),
    ),
    Parser(name="minimax_m2", words=("<minimax:tool_call>",), tokens=("<minimax:tool_call>",)),
    Parser(name="seed_oss", words=("<seed:tool_call>",), tokens=("<seed:tool_call>",)),
    Parser(name="gemma4", words=("<|tool_call>",), tokens=("<|tool_call>",)),
    Parser(name="glm45", words=("<arg_key>", "<tool_call>"), tokens=("<tool_call>",)),
    Parser(name="qwen3_coder", words=("<function=", "<tool_call>"), tokens=("<tool_call>",)),
    Parser(name="lfm2", words=("<|tool_call_start|>",), tokens=("<|tool_call_start|>",)),
    Parser(name="llama3_json", words=('"parameters": dictionary of argument name and its value}',)),
    Parser(name="hermes", words=("<tool_call>", '"arguments"')),
)  # fmt: skip
REASONING = (
    Parser(name="openai_gptoss", words=("<|channel|>", "analysis"), tokens=("<|channel|>",)),
    Parser(name="mistral", words=("[THINK]",), tokens=("[THINK]", "[/THINK]")),
    Parser(name="gemma4", words=("<|channel>thought",), tokens=("<|channel>", "<channel|>")),
    Parser(name="seed_oss", words=("<seed:think>",), tokens=("<seed:think>", "</seed:think>")),
    Parser(name="minimax_m2", words=("<minimax:tool_call>", "<think>"), tokens=("<think>", "</think>")),
    Parser(name="glm45", words=("<think>", "enable_thinking", "<arg_key>"), tokens=("<think>", "</think>")),
    Parser(name="qwen3", words=("<think>", "enable_thinking"), tokens=("<think>", "</think>")),
    # Those that cannot be told not to think.
    Parser(name="deepseek_r1", words=("<think>\\n",), without=("enable_thinking",), tokens=("<think>", "</think>")),
)
#: Every name that vLLM 0.32 knows, for who wants another than is found.
TOOL_NAMES = (
    AUTO, NONE, "apertus", "cohere_command3", "cohere_command4", "deepseek_v3", "deepseek_v31", "deepseek_v32",
    "deepseek_v4", "deepseek_v41", "dots", "ernie45", "functiongemma", "gemma4", "gigachat3", "glm45", "glm47",
    "granite", "granite-20b-fc", "granite4", "hermes", "hf", "hunyuan_a13b", "hy_v3", "hy_v4", "inkling", "internlm",
    "jamba", "k2_horizon", "kimi_k2", "kimi_k3", "lfm2", "ling3", "llama3_json", "llama4_json", "llama4_pythonic",
    "longcat", "mimo", "minicpm5", "minimax_m2", "minimax_m3", "mistral", "muse_glimmer", "olmo3", "openai",
    "phi4_mini_json", "plamo3", "poolside_v1", "pythonic", "qwen3_coder", "qwen3_json", "qwen3_xml", "seed_oss",
    "step3", "step3p5", "xlam",
)  # fmt: skip
REASONING_NAMES = (
    AUTO, NONE, "cohere_command3", "cohere_command4", "deepseek_r1", "deepseek_v3", "deepseek_v4", "deepseek_v41",
    "ernie45", "gemma4", "glm45", "glm47", "granite", "granite_thinking_parser", "hf", "holo2", "hunyuan_a13b", "hy_v3",
    "hy_v4", "inkling", "k2_horizon", "kimi_k2", "kimi_k3", "ling3", "mimo", "minicpmv", "minimax_m2",
    "minimax_m2_append_think", "minimax_m3", "mistral", "muse_glimmer", "nemotron_v3", "olmo3", "openai_gptoss",
    "plamo3", "poolside_v1", "qwen3", "seed_oss", "step3", "step3p5",
)  # fmt: skip


def of_calls(template: str, has_token: Callable[[str], bool]) -> str | None:
    """Of a model whose chat template this is; None: none is known to be right."""
    return _found(TOOLS, template, has_token)


def of_thoughts(template: str, has_token: Callable[[str], bool]) -> str | None:
    return _found(REASONING, template, has_token)


def _found(table: tuple[Parser, ...], template: str, has_token: Callable[[str], bool]) -> str | None:
    for parser in table:
        shown = all(word in template for word in parser.words) and not any(word in template for word in parser.without)
        if shown and all(map(has_token, parser.tokens)):
            return parser.name
    return None
