"""Talking to one vLLM server over HTTP: is it well, how busy is it, does it answer, which adapters has it loaded?

Starts and stops nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.errors import ChildFailed, ModelNotLoaded

#: A healthy server answers these at once, also while its engine computes.
PROBE_SECONDS = 5.0
#: The first answer may compile kernels.
WARM_UP_SECONDS = 300.0
#: Between two steps of its engine the server reads an adapter's files.
LOAD_SECONDS = 120.0

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
GENERATED, PROMPT = "vllm:generation_tokens_total", "vllm:prompt_tokens_total"
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
PREEMPTIONS, KV_CACHE = "vllm:num_preemptions_total", "vllm:kv_cache_usage_perc"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What the server counts; tokens since it started."""

    num_running: float = 0.0
    num_waiting: float = 0.0
    generated_tokens: float = 0.0
    prompt_tokens: float = 0.0
    #: Tokens of prompts that were looked up in the prefix cache, and those that were there.
    prefix_cache_queries: float = 0.0
    prefix_cache_hits: float = 0.0
    preemptions: float = 0.0
    #: Share in use of the fullest of its engines; None where the server has no such cache.
    kv_cache_usage: float | None = None

    @property
    def load(self) -> float:
        return self.num_running + self.num_waiting


class Engine:
    def __init__(self, url: str, api_key: str):
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=PROBE_SECONDS, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def healthy(self) -> bool:
        """False while it starts, and when its engine is dead."""
        try:
            return self._client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def warm_up(self, served_name: str) -> None:
        """One token, through everything that a request goes through. Raises ChildFailed with what vLLM said.

        With logprobs, of one sequence and of two: on GPUs vLLM compiles a function for each when it is first asked.
        """
        for num_sequences in (1, 2):
            self._warm_up(served_name, num_sequences)

    def _warm_up(self, served_name: str, num_sequences: int) -> None:
        body = {"model": served_name, "prompt": "Hello", "max_tokens": 1, "logprobs": 1, "n": num_sequences}
        try:
            answer = self._client.post("/v1/completions", json=body, timeout=WARM_UP_SECONDS)
        except httpx.TransportError as error:
            raise ChildFailed(f"the engine is up but does not answer: {error or type(error).__name__}") from error
        if answer.status_code != 200:
            raise ChildFailed(f"the engine is up but refuses to answer ({answer.status_code}): {answer.text[:500]}")

    def adapters(self) -> dict[str, str]:
        """Folders of the adapters that answer, by their names. Raises ModelNotLoaded when the server does not tell."""
        answer = self._ask("GET", "/v1/models", PROBE_SECONDS)
        if answer.status_code != 200:
            raise ModelNotLoaded(f"the replica does not tell its adapters: {said(answer)}")
        return {model["id"]: model["root"] for model in answer.json()["data"] if model.get("parent")}

    def load_adapter(self, name: str, folder: Path) -> None:
        """From here on it answers requests for `name` with this adapter; nothing happens where it does already.

        The folder has to stay: an adapter that is not among the last that were asked is read from it again. Other files
        take another name, or another folder after `unload_adapter`: cached prefixes are known by both.
        Raises ModelNotLoaded with what the server said.
        """
        if self.adapters().get(name) == str(folder):
            return
        body = {"lora_name": name, "lora_path": str(folder)}
        answer = self._ask("POST", "/v1/load_lora_adapter", LOAD_SECONDS, body)
        if answer.status_code != 200:
            raise ModelNotLoaded(f"the replica does not load adapter {name!r}: {said(answer)}")

    def unload_adapter(self, name: str) -> None:
        """Requests for `name` are refused from here on, answers that are being given go on to their end.

        Nothing happens where it was not loaded. Raises ModelNotLoaded with what the server said.
        """
        answer = self._ask("POST", "/v1/unload_lora_adapter", PROBE_SECONDS, {"lora_name": name})
        if answer.status_code not in (200, 404):
            raise ModelNotLoaded(f"the replica does not unload adapter {name!r}: {said(answer)}")

    def _ask(self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body, timeout=seconds)
        except httpx.TransportError as error:
            raise ModelNotLoaded(f"the replica does not answer: {error or type(error).__name__}") from error

    def numbers(self) -> Numbers | None:
        """None when it does not answer."""
        try:
            answer = self._client.get("/metrics")
        except httpx.TransportError:
            return None
        return parse(answer.text) if answer.status_code == 200 else None


def said(answer: httpx.Response) -> str:
    """What the server says of its refusal, in one line: its message, else the beginning of its page."""
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text
    return " ".join(str(message).split())[:500] or f"status {answer.status_code}"


def parse(text: str) -> Numbers:
    """The few numbers we use of vLLM's metrics page, summed over its engines."""
    sums = dict.fromkeys((RUNNING, WAITING, GENERATED, PROMPT, QUERIES, HITS, PREEMPTIONS), 0.0)
    usages: list[float] = []
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
        elif name == KV_CACHE:
            usages.append(float(line.rpartition(" ")[2]))
    return Numbers(
        num_running=sums[RUNNING],
        num_waiting=sums[WAITING],
        generated_tokens=sums[GENERATED],
        prompt_tokens=sums[PROMPT],
        prefix_cache_queries=sums[QUERIES],
        prefix_cache_hits=sums[HITS],
        preemptions=sums[PREEMPTIONS],
        kv_cache_usage=max(usages, default=None),
    )
