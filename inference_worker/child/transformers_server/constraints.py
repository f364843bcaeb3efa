"""Answers that follow a JSON schema, a regular expression, a choice or a grammar: the tokens that may come next.

xgrammar, which vLLM uses too, turns what is asked for into an automaton over the model's tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from inference_worker.child.transformers_server.refusal import Refusal
from inference_worker.child.transformers_server.sampling import Constraint

#: Members of `structured_outputs`, of which one is given.
KINDS = ("json", "regex", "choice", "grammar", "json_object")


class Grammars:
    """Compiled once for each model and schema."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, eos_token_ids: frozenset[int]):
        self._tokenizer, self._size, self._ends = tokenizer, vocabulary_size, eos_token_ids
        self._compiler: Any = None
        self._lock = threading.Lock()

    def of(self, body: Mapping[str, Any]) -> Callable[[], Constraint] | None:
        """Makes the constraint of each answer; None where the request wants none. Raises Refusal."""
        wanted = _wanted(body)
        if wanted is None:
            return None
        field, kind, value = wanted
        from xgrammar import GrammarMatcher

        with self._lock:
            try:
                compiled = self._compile(kind, value)
            except (RuntimeError, ValueError, TypeError) as error:
                raise Refusal(f"{field!r} cannot be followed: {' '.join(str(error).split())[:300]}", field) from error
        return lambda: Following(GrammarMatcher(compiled), self._size)

    def _compile(self, kind: str, value: Any) -> Any:
        import xgrammar

        if self._compiler is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._tokenizer, vocab_size=self._size, stop_token_ids=sorted(self._ends) or None
            )
            self._compiler = xgrammar.GrammarCompiler(info, cache_limit_bytes=256 * 2**20)
        if kind == "json_object":
            return self._compiler.compile_builtin_json_grammar()
        if kind == "json":
            return self._compiler.compile_json_schema(value if isinstance(value, str) else json.dumps(value))
        if kind == "regex":
            return self._compiler.compile_regex(value)
        if kind == "choice":
            return self._compiler.compile_grammar("root ::= " + " | ".join(json.dumps(one) for one in value))
        return self._compiler.compile_grammar(value)


class Following:
    """One answer's way through a grammar. V vocabulary."""

    def __init__(self, matcher: Any, vocabulary_size: int):
        from xgrammar import allocate_token_bitmask

        self._matcher = matcher
        self._bitmask = allocate_token_bitmask(1, vocabulary_size)

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        """Tokens that cannot come next become impossible. scores: [V]"""
        from xgrammar import apply_token_bitmask_inplace

        if self._matcher.is_terminated():
            return scores
        self._matcher.fill_next_token_bitmask(self._bitmask)
        masked = scores.clone()
        apply_token_bitmask_inplace(masked[None], self._bitmask.to(scores.device))
        return masked

    def accept(self, token_id: int) -> None:
        if not self._matcher.is_terminated():
            self._matcher.accept_token(token_id)


def _wanted(body: Mapping[str, Any]) -> tuple[str, str, Any] | None:
    """The member that asks, what kind of thing it asks for, and that thing."""
    shape = body.get("response_format")
    if isinstance(shape, dict) and shape.get("type") not in (None, "text"):
        return "response_format", *_of_format(shape)
    given = body.get("structured_outputs")
    if not given:
        return None
    named = {kind: given[kind] for kind in KINDS if given.get(kind) is not None} if isinstance(given, dict) else {}
    if len(named) != 1:
        raise Refusal(f"'structured_outputs' must have one of {', '.join(KINDS)}", "structured_outputs")
    [(kind, value)] = named.items()
    return "structured_outputs", kind, value


def _of_format(shape: Mapping[str, Any]) -> tuple[str, Any]:
    if shape["type"] == "json_object":
        return "json_object", True
    schema = (shape.get("json_schema") or {}).get("schema") if shape["type"] == "json_schema" else None
    if not isinstance(schema, dict):
        text = "'response_format' must be of type text, json_object, or json_schema with json_schema.schema"
        raise Refusal(text, "response_format")
    return "json", schema
