"""Members of requests that vLLM would take and we do not, and those that nobody declared and may pass.

What is refused lets a client run a program on the server, reach into it, or expect what it would not get. A name that
nobody knows is passed over by vLLM without a word: one that is nearly a known one is refused instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import Complaint
from shared.nearest import nearest
from shared.tongues import Text

SERVERS = "it belongs to servers that hand their caches to each other"
MEDIA = "models answer text here"
CUT = "servers draw without it: use top_p, top_k or min_p"
REPEATED = "servers know no such rule: use repetition_penalty, presence_penalty or frequency_penalty"
SEARCHED = "beams have no such rule here: leave it out beside num_beams and length_penalty"
#: Member -> why not, and what instead.
REFUSED: Mapping[str, str] = {
    "chat_template": "a template is a program that the server would run: give the deployment a template",
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "bootstrap_host", "bootstrap_room"), SERVERS),
    **dict.fromkeys(("mm_processor_kwargs", "media_io_kwargs", "mm_payload", "return_mm_kwargs"), MEDIA),
    "prompt_embeds": "it is read as a file of Python objects: send a text or token ids",
    "vllm_xargs": "it is for extensions of the server, and there are none",
    "logits_processors": "they name code of the server: use logit_bias, bad_words or structured_outputs",
    "request_id": "two requests of one id would disturb each other: send the header X-Request-Id",
    "guided_decoding_backend": "the server chooses it: leave it out",
    "guided_whitespace_pattern": "use structured_outputs with whitespace_pattern",
    "best_of": "no more answers are drawn than are told: use n",
    "functions": "OpenAI replaced it: use tools",
    "function_call": "OpenAI replaced it: use tool_choice",
    **dict.fromkeys(("typical_p", "epsilon_cutoff", "eta_cutoff", "penalty_alpha"), CUT),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty"), REPEATED),
    **dict.fromkeys(("early_stopping", "num_beam_groups", "diversity_penalty"), SEARCHED),
    "num_return_sequences": "it is called n here",
    "stop_strings": "it is called stop here",
    "bad_words_ids": "use bad_words, or logit_bias with -100",
    "previous_input_messages": "few models read it: send the whole conversation as input",
}
#: What OpenAI or vLLM knows beside what is declared as a parameter.
PASSED = frozenset({
    "add_generation_prompt", "audio", "background", "cache_salt", "conversation", "documents", "echo",
    "enable_response_messages", "include", "input", "instructions", "logprob_token_ids", "max_tool_calls", "messages",
    "metadata", "modalities", "model", "prediction", "previous_response_id", "priority",
    "prompt", "prompt_cache_key", "prompt_cache_retention", "reasoning", "repetition_detection", "return_prompt_text",
    "return_token_offsets", "return_tokens_as_token_ids", "routed_experts_prompt_start", "safety_identifier",
    "service_tier", "session_id", "store", "stream", "stream_interval", "stream_options", "suffix", "text",
    "truncation", "use_beam_search", "user", "verbosity", "watermarking", "web_search_options",
})  # fmt: skip
#: Unknown names for which the nearest is looked for: it takes about a millisecond each.
MAX_LOOKED_AT = 20
#: How alike two names are of which one is taken for a slip: `top-p` and `top_p` are, `extra` and `text` are not.
ALIKE = 0.8


def complaints(given: Mapping[str, Any], known: frozenset[str]) -> Iterator[Complaint]:
    """About members that are refused, and about those that look like a mistyped one of `known`."""
    for name in sorted(given.keys() & REFUSED.keys()):
        if given[name] is not None:
            yield Complaint(
                field=name, message=Text("is not taken: {why}", why=Text(REFUSED[name])), code="not_allowed"
            )
    known = known | PASSED
    unknown = [name for name in given if name not in known and name not in REFUSED]
    for name in unknown[:MAX_LOOKED_AT]:
        if (near := nearest(name, known, cutoff=ALIKE)) is not None:
            text = Text("is unknown; did you mean {near!r}?", near=near)
            yield Complaint(field=name[:200], message=text, code="unknown_field")
