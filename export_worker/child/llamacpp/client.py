"""A GGUF file loaded by llama.cpp, and what it is asked: tokens of a text, a rendered conversation, what comes next."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import torch

from shared.errors import TunesmithError

#: Longest wait for an answer, seconds: a large model reads a prompt for minutes on a CPU.
TIMEOUT = 1800.0
#: Added to the logit of a token that must come next; what llama.cpp reports is from before.
FORCED = 1e4
#: Likeliest tokens that are asked for where one is looked for; llama.cpp tells at most as many as there are.
MANY, ALL = 256, 10**7
#: Characters of the server's errors that ours repeats.
LAST_WORDS = 600


class LlamaCppFailed(TunesmithError):
    """llama.cpp cannot load or answer the written file."""

    code = "verification_failed"


@dataclass(frozen=True, kw_only=True)
class Generated:
    ids: list[int]
    #: Whether a token ended it.
    ended: bool
    #: Per step, natural logarithms of the likeliest tokens' probabilities; empty where llama.cpp does not tell all.
    likeliest: list[dict[int, float]]


class LlamaCpp:
    """The server process; leaving the context ends it."""

    def __init__(self, file: Path, context_tokens: int):
        self._asked = {"file": str(file), "context_tokens": context_tokens, "threads": torch.get_num_threads()}
        self._key = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile()
        argv = [sys.executable, "-m", "export_worker.child.llamacpp.serve"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(self._asked | {"key": self._key}) + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            text = f"llama.cpp does not load the file: {self._last_words()}"
            self.__exit__(None, None, None)
            raise LlamaCppFailed(text)
        address = urlsplit(json.loads(told)["address"])
        self._connection = HTTPConnection(str(address.hostname), address.port, timeout=TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # At once: nothing of it is wanted any more, and a server that is busy does not look at its stdin.
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def tokens(self, text: str, *, as_prompt: bool = False) -> list[int]:
        """Of the text alone, or with what llama.cpp puts before and behind a prompt."""
        asked = {"content": text, "add_special": as_prompt, "parse_special": True}
        return list(self._post("/tokenize", asked)["tokens"])

    def rendered(self, messages: Sequence[dict[str, Any]]) -> str:
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def log_probability(self, prompt: Sequence[int], token: int) -> float:
        """Of this token after the prompt, nats. It is made to come next, so that a question for the token behind it
        finds the prompt computed."""
        if steps := self._forced(prompt, token, num_likeliest=1):
            return float(steps[0]["logprob"])
        # Of a token that only begins a character llama.cpp says nothing: it waits for the rest. It is among the
        # likeliest then, or at least among all, where a letter comes next.
        [letter] = self.tokens("a")
        for count in (MANY, ALL):
            [step] = self._forced(prompt, letter, num_likeliest=count)
            told = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
            if token in told:
                return float(told[token])
        raise LlamaCppFailed(f"llama.cpp does not know token {token}")

    def _forced(self, prompt: Sequence[int], token: int, num_likeliest: int) -> list[dict[str, Any]]:
        asked = {"prompt": list(prompt), "n_predict": 1, "logit_bias": [[token, FORCED]]}
        return list(self._complete(asked, num_likeliest).get("completion_probabilities", []))

    def answer(self, prompt: Sequence[int], max_tokens: int, num_likeliest: int) -> Generated:
        asked = {"prompt": list(prompt), "n_predict": max_tokens, "return_tokens": True}
        told = self._complete(asked, num_likeliest)
        likeliest = [
            {one["id"]: one["logprob"] for one in step["top_logprobs"]}
            for step in told.get("completion_probabilities", [])
        ]
        # Steps are missing where tokens make a character together: nothing then says which is which.
        whole = len(likeliest) == len(told["tokens"])
        return Generated(ids=told["tokens"], ended=told["stop_type"] == "eos", likeliest=likeliest if whole else [])

    def _complete(self, asked: dict[str, Any], num_likeliest: int) -> dict[str, Any]:
        return self._post("/completion", asked | {"temperature": 0, "n_probs": num_likeliest, "cache_prompt": True})

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            self._connection.request("POST", path, json.dumps(body), headers)
            response = self._connection.getresponse()
            told: dict[str, Any] = json.loads(response.read())
        except (OSError, HTTPException) as error:
            raise LlamaCppFailed(f"llama.cpp ended when asked for {path}: {self._last_words()}") from error
        if response.status != 200:
            raise LlamaCppFailed(f"llama.cpp refuses {path}: {told.get('error', {}).get('message', told)}")
        return told

    def _last_words(self) -> str:
        """Its errors without times and places; all that it said where it calls nothing an error."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        errors = [found[1] for line in lines if (found := re.match(r"\S+ E (.*)", line))]
        return "; ".join(errors or lines)[:LAST_WORDS]
