"""What may be said of an answer beside how its tokens are drawn: where it ends, what it must look like, what is told.

For requests, presets, a deployment's own parameters and generation in bulk alike. None: nothing is said, and the
model's own generation config decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared import answer_fields as answers
from shared.fields import Texts
from shared.param import param

#: How hard a model thinks, in OpenAI's words and DeepSeek's `max`.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, kw_only=True)
class Searching:
    num_beams: int = param(
        1, "Beams that are followed at once; 1: none.", minimum=1, maximum=64, since=5,
        advice="Not with stream, and nothing but the length and the end of text is heeded.",
    )  # fmt: skip
    length_penalty: float = param(
        1.0, "Of beams: above 0 favours longer answers.", minimum=-100.0, maximum=100.0, since=5
    )


@dataclass(frozen=True, kw_only=True)
class Ending:
    max_length: int | None = param(
        None, "Longest prompt and answer together; max_new_tokens goes before it.", type=int, minimum=1,
        maximum=10_485_760, unit="tokens", since=5,
    )  # fmt: skip
    min_tokens: int | None = param(
        None, "Shortest answer: before it no end of text is heeded.", type=int, minimum=0, maximum=1_048_576,
        unit="tokens", aliases=("min_new_tokens",), source="vLLM", since=5,
    )  # fmt: skip
    stop_token_ids: list[int] = param(
        [], "Tokens at which an answer ends.", field_class=answers.TokenIds, source="vLLM", since=5
    )
    ignore_eos: bool | None = param(
        None, "Go on after the end of text, up to the longest answer.", type=bool, source="vLLM", since=5
    )
    include_stop_str_in_output: bool | None = param(
        None, "Keep the text at which an answer ended.", type=bool, source="vLLM", since=5
    )


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """Which tokens may come at all."""

    logit_bias: dict[str, Any] | None = param(
        None, "Added to the scores of tokens, by their ids: -100 forbids one, 100 forces it.", type=dict,
        field_class=answers.TokenBias, source="OpenAI", since=5,
    )  # fmt: skip
    allowed_token_ids: list[int] = param(
        [], "The only tokens that may come.", field_class=answers.TokenIds, source="vLLM", since=5
    )
    bad_words: list[str] = param([], "Words that may not come.", field_class=Texts, source="vLLM", since=5)


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What the answer tells beside its text."""

    logprobs: bool | None = param(
        None, "Tell how probable each token was.", type=bool, field_class=answers.LogProbs, source="OpenAI", since=5
    )
    top_logprobs: int | None = param(
        None, "Tell so many of the likeliest tokens at each place; needs logprobs.", type=int, minimum=0,
        maximum=answers.MAX_LOGPROBS, source="OpenAI", since=5,
    )  # fmt: skip
    prompt_logprobs: int | None = param(
        None, "The same of the prompt's tokens; not with stream.", type=int, minimum=0, maximum=answers.MAX_LOGPROBS,
        source="vLLM", since=5,
    )  # fmt: skip
    return_token_ids: bool | None = param(
        None, "Tell the ids of the prompt's and the answer's tokens.", type=bool, source="vLLM", since=5
    )
    spaces_between_special_tokens: bool | None = param(
        None, "Put spaces between special tokens that are kept.", type=bool, source="vLLM", since=5
    )


@dataclass(frozen=True, kw_only=True)
class Forming:
    """What an answer must look like."""

    response_format: dict[str, Any] | None = param(
        None, "`json_object`, or a JSON schema that the answer follows.", type=dict, source="OpenAI", since=5,
        check=answers.response_format_complaint,
    )  # fmt: skip
    structured_outputs: dict[str, Any] | None = param(
        None, "One of `json`, `regex`, `choice`, `grammar`, `json_object`, `structural_tag`: what the answer follows.",
        type=dict, source="vLLM", since=5, check=answers.structured_outputs_complaint,
    )  # fmt: skip
    tools: list[dict[str, Any]] = param(
        [], "Functions that the model may call.", field_class=answers.Tools, source="OpenAI", since=5
    )
    tool_choice: str | None = param(
        None, "`auto`, `none`, `required`, or the function that must be called.", type=str,
        field_class=answers.ToolChoice, source="OpenAI", since=5,
    )  # fmt: skip
    parallel_tool_calls: bool | None = param(
        None, "Whether one answer may have several calls.", type=bool, source="OpenAI", since=5
    )


@dataclass(frozen=True, kw_only=True)
class Thinking:
    enable_thinking: bool | None = param(
        None, "Whether a model that can think does so before it answers. Left out: as the model does.", type=bool,
        since=5,
    )  # fmt: skip
    reasoning_effort: str | None = param(
        None, "How hard a model thinks, where its template knows of it.", type=str, choices=EFFORTS, source="OpenAI",
        since=5,
    )  # fmt: skip
    include_reasoning: bool | None = param(
        None, "Whether the thought is told beside the answer.", type=bool, source="vLLM", since=5
    )
    thinking_token_budget: int | None = param(
        None, "Longest thought; -1: as long as the answer may be.", type=int, minimum=-1, maximum=1_048_576,
        unit="tokens", source="vLLM", since=5,
    )  # fmt: skip
    chat_template_kwargs: dict[str, Any] | None = param(
        None, "Values that the chat template asks for.", type=dict, source="vLLM", since=5,
        check=answers.template_kwargs_complaint,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How the prompt is made of what was sent."""

    truncate_prompt_tokens: int | None = param(
        None, "Cut the prompt to so many tokens; -1: to what the model can read.", type=int, minimum=-1,
        maximum=10_485_760, unit="tokens", source="vLLM", since=5,
    )  # fmt: skip
    truncation_side: str | None = param(
        None, "Where the prompt is cut.", type=str, choices=("left", "right"), source="vLLM", since=5
    )
    add_special_tokens: bool | None = param(
        None, "Whether the prompt gets the tokenizer's own special tokens.", type=bool, source="vLLM", since=5
    )
    add_generation_prompt: bool | None = param(
        None, "Whether the template opens the answer.", type=bool, source="vLLM", since=5
    )
    continue_final_message: bool | None = param(
        None, "Go on with the last message instead of answering it; needs add_generation_prompt false.", type=bool,
        source="vLLM", since=5,
    )  # fmt: skip
