"""A request's body becomes tasks, or a refusal that names the member. Members are those of vLLM's routes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from inference_worker.child.transformers_server.model import Served
from inference_worker.child.transformers_server.refusal import Refusal
from inference_worker.child.transformers_server.sampling import Constraint, Sampling
from inference_worker.child.transformers_server.sequence import Answer, Decoder, Sink, Task

#: Members that change no answer here.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id", "session_id"}
    | {"priority", "spaces_between_special_tokens", "cache_salt", "parallel_tool_calls", "stream_interval"}
)
KNOWN = frozenset(
    {"model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    | {"presence_penalty", "frequency_penalty", "seed", "max_tokens", "max_completion_tokens", "min_tokens", "n"}
    | {"stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens", "logit_bias"}
    | {"allowed_token_ids", "logprobs", "num_beams", "use_beam_search", "length_penalty", "return_token_ids"}
    | {"add_special_tokens", "response_format", "structured_outputs"}
)
CHAT = frozenset(
    {"messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "documents"}
    | {"top_logprobs", "reasoning_effort", "tool_choice", "chat_template"}
)
COMPLETION = frozenset({"prompt"})
#: What vLLM takes where neither a request nor the model says how long an answer to a text may be.
COMPLETION_TOKENS = 16
MAX_CHOICES, MAX_LOGPROBS, MAX_BEAMS = 128, 20, 16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for, before anything is computed."""

    prompts: list[list[int]]
    sampling: Sampling
    num_answers: int
    num_beams: int
    length_penalty: float
    adapter: str | None
    #: Makes the grammar that each answer follows; None: they follow none.
    grammar: Callable[[], Constraint] | None

    def tasks(self, served: Served, chance: random.Random, sink: Sink) -> list[Task]:
        return [self._task(served, number, prompt_ids, chance, sink) for number, prompt_ids in enumerate(self.prompts)]

    def _task(self, served: Served, number: int, prompt_ids: list[int], chance: random.Random, sink: Sink) -> Task:
        first = number * self.num_answers
        answers = [
            Answer(
                index=first + choice,
                prompt_ids=prompt_ids,
                sampling=self.sampling,
                decoder=Decoder(served.tokenizer, prompt_ids, self.sampling.skip_special_tokens),
                generator=generator(served.device, self.sampling.seed, choice, chance),
                constraint=self.grammar() if self.grammar else None,
                sink=sink,
            )
            for choice in range(self.num_answers)
        ]
        return Task(
            prompt_ids=prompt_ids,
            answers=answers,
            adapter=self.adapter,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            sink=sink,
        )


def generator(device: torch.device, seed: int | None, choice: int, chance: random.Random) -> torch.Generator:
    """Of its own for each answer: what is computed beside it changes nothing. -1 is vLLM's word for no seed."""
    chosen = chance.getrandbits(63) if seed is None or seed == -1 else (seed + choice) % 2**63
    return torch.Generator(device).manual_seed(chosen)


def chat(body: Mapping[str, Any], served: Served, adapter: str | None) -> Asked:
    _check_members(body, KNOWN | CHAT)
    prompt_ids = chat_prompt(body, served)
    num_logprobs = (_whole(body, "top_logprobs", 0, 0, MAX_LOGPROBS) or 0) if body.get("logprobs") else None
    return _asked(body, served, adapter, [prompt_ids], num_logprobs, None)


def completion(body: Mapping[str, Any], served: Served, adapter: str | None) -> Asked:
    _check_members(body, KNOWN | COMPLETION)
    num_logprobs = _whole(body, "logprobs", None, 0, MAX_LOGPROBS)
    return _asked(body, served, adapter, prompts(body, served), num_logprobs, COMPLETION_TOKENS)


def chat_prompt(body: Mapping[str, Any], served: Served) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refusal("'messages' must be a list of messages, one at least", "messages")
    told = {name: body[name] for name in ("documents", "reasoning_effort") if body.get(name) is not None}
    wanted = {**served.chat_template_kwargs, **told, **(body.get("chat_template_kwargs") or {})}
    continued = bool(body.get("continue_final_message"))
    try:
        ids: list[int] = served.tokenizer.apply_chat_template(
            [_plain(message) for message in messages],
            chat_template=body.get("chat_template") or served.chat_template,
            tools=body.get("tools") or None,
            add_generation_prompt=bool(body.get("add_generation_prompt", not continued)),
            continue_final_message=continued,
            tokenize=True,
            return_dict=False,
            **wanted,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise Refusal(f"the chat template cannot write these messages: {error}", "messages") from error
    return ids


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Content in parts becomes one text, as most templates want it."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    kinds = {part.get("type") if isinstance(part, dict) else None for part in content}
    if not kinds <= {"text", "input_text"}:
        raise Refusal(
            "the parts of a message's content must be of type text: this model reads nothing else", "messages"
        )
    return {**message, "content": "\n".join(str(part.get("text", "")) for part in content)}


def prompts(body: Mapping[str, Any], served: Served) -> list[list[int]]:
    """A text, several, token ids, or several lists of them."""
    given = body.get("prompt")
    several = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    special = bool(body.get("add_special_tokens", True))
    found = [
        list(served.tokenizer(one, add_special_tokens=special)["input_ids"]) if isinstance(one, str) else one
        for one in several
    ]
    if not all(_are_tokens(ids, served.vocabulary_size) for ids in found):
        text = "'prompt' must be a text, a list of texts, or lists of token ids of the model, none of them empty"
        raise Refusal(text, "prompt")
    return found


def _are_tokens(ids: Any, size: int) -> bool:
    return isinstance(ids, list) and bool(ids) and all(type(one) is int and 0 <= one < size for one in ids)


def _asked(
    body: Mapping[str, Any],
    served: Served,
    adapter: str | None,
    prompts: list[list[int]],
    num_logprobs: int | None,
    default_tokens: int | None,
) -> Asked:
    max_tokens = _max_tokens(body, served, prompts, default_tokens)
    num_answers = _whole(body, "n", 1, 1, MAX_CHOICES) or 1
    # vLLM's beam search has as many beams as answers.
    num_beams = num_answers if body.get("use_beam_search") else _whole(body, "num_beams", 1, 1, MAX_BEAMS) or 1
    if num_beams > 1:
        _check_beams(body, num_answers, num_beams)
    return Asked(
        prompts=prompts,
        sampling=_sampling(body, served, max_tokens, num_logprobs),
        num_answers=num_answers,
        num_beams=num_beams,
        length_penalty=_number(body, "length_penalty", 1.0, -100.0, 100.0),
        adapter=adapter,
        grammar=served.grammars.of(body),
    )


def _check_beams(body: Mapping[str, Any], num_answers: int, num_beams: int) -> None:
    if num_answers > num_beams:
        raise Refusal(f"'n' is {num_answers}: a search with {num_beams} beams has no more answers", "n")
    for name in ("stream", "logprobs", "response_format", "structured_outputs"):
        if body.get(name) not in (None, False):
            raise Refusal(f"{name!r} cannot be had with beams: they are compared at their end", name)


def _max_tokens(body: Mapping[str, Any], served: Served, prompts: list[list[int]], default: int | None) -> int:
    """What is asked for, else the model's own, else all that the context leaves."""
    longest = max(len(ids) for ids in prompts)
    left = served.max_model_len - longest
    if left <= 0:
        raise Refusal(
            f"the prompt has {longest} tokens: the context of this model has {served.max_model_len}, and the answer "
            "needs one at least",
            "messages" if "messages" in body else "prompt",
        )
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = _whole(body, name, None, 1, None)
    if asked is None:
        return min(left, int(served.defaults.get("max_tokens", default or left)))
    if asked > left:
        raise Refusal(
            f"{name!r} is {asked}, but the prompt has {longest} tokens and the context of this model "
            f"{served.max_model_len}: {left} are left",
            name,
        )
    return asked


def _sampling(body: Mapping[str, Any], served: Served, max_tokens: int, num_logprobs: int | None) -> Sampling:
    def number(name: str, default: float, low: float, high: float) -> float:
        return _number(body, name, float(served.defaults.get(name, default)), low, high)

    return Sampling(
        temperature=number("temperature", 1.0, 0.0, 1e4),
        top_p=number("top_p", 1.0, 0.0, 1.0),
        top_k=int(number("top_k", 0, -1, 2**31)),
        min_p=number("min_p", 0.0, 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 1.0, 0.0, 1e4),
        presence_penalty=number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=_whole(body, "seed", None, -(2**63), 2**63 - 1),
        max_tokens=max_tokens,
        min_tokens=_whole(body, "min_tokens", 0, 0, max_tokens) or 0,
        eos_token_ids=frozenset() if body.get("ignore_eos") else served.eos_token_ids,
        stop_token_ids=frozenset(_tokens(body, "stop_token_ids", served)),
        stop=_stops(body),
        include_stop_str_in_output=bool(body.get("include_stop_str_in_output")),
        skip_special_tokens=bool(body.get("skip_special_tokens", True)),
        logit_bias=_biases(body, served),
        allowed_token_ids=tuple(_tokens(body, "allowed_token_ids", served)),
        num_logprobs=num_logprobs,
    )


def _check_members(body: Mapping[str, Any], known: Iterable[str]) -> None:
    """What would be left out silently is refused."""
    for name, value in body.items():
        if name not in known and name not in WITHOUT_EFFECT and value not in (None, False, [], {}, ""):
            raise Refusal(
                f"{name!r} is not taken by engine transformers: leave it out, or deploy with engine vllm", name
            )
    if body.get("tools") and body.get("tool_choice") != "none":
        text = "calls of tools are not told apart from the text of an answer by engine transformers: use engine vllm"
        raise Refusal(f"{text}, or tool_choice none", "tools")


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refusal(f"{name!r} must be a number from {low:g} to {high:g}", name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, default: int | None, low: int, high: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise Refusal(f"{name!r} must be a whole number {bounds}", name)
    return value


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop") or []
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, list) or not all(isinstance(one, str) and one for one in several):
        raise Refusal("'stop' must be a text or a list of texts, none of them empty", "stop")
    return tuple(several)


def _tokens(body: Mapping[str, Any], name: str, served: Served) -> list[int]:
    given = body.get(name) or []
    if given and not _are_tokens(given, served.vocabulary_size):
        raise Refusal(f"{name!r} must be a list of token ids of the model", name)
    return list(given)


def _biases(body: Mapping[str, Any], served: Served) -> dict[int, float]:
    given = body.get("logit_bias") or {}
    try:
        found = {int(token_id): max(-100.0, min(100.0, float(bias))) for token_id, bias in given.items()}
    except (ValueError, TypeError, AttributeError):
        found = {-1: 0.0}
    if not all(0 <= token_id < served.vocabulary_size for token_id in found):
        raise Refusal("'logit_bias' must map token ids of the model to numbers", "logit_bias")
    return found


Reader = Callable[[Mapping[str, Any], Served, str | None], Asked]
