"""Talking to one vLLM server over HTTP: is it well, how busy is it, does it answer? Starts and stops nothing."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from shared.errors import ChildFailed

#: A healthy server answers these at once, also while its engine computes.
PROBE_SECONDS = 5.0
#: The first answer may compile kernels.
WARM_UP_SECONDS = 300.0

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
GENERATED, PROMPT = "vllm:generation_tokens_total", "vllm:prompt_tokens_total"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What the server counts; tokens since it started."""

    num_running: float = 0.0
    num_waiting: float = 0.0
    generated_tokens: float = 0.0
    prompt_tokens: float = 0.0

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
        """One token, through everything that a request goes through. Raises ChildFailed with what vLLM said."""
        body = {"model": served_name, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        try:
            answer = self._client.post("/v1/completions", json=body, timeout=WARM_UP_SECONDS)
        except httpx.TransportError as error:
            raise ChildFailed(f"vLLM is up but does not answer: {error or type(error).__name__}") from error
        if answer.status_code != 200:
            raise ChildFailed(f"vLLM is up but refuses to answer ({answer.status_code}): {answer.text[:500]}")

    def numbers(self) -> Numbers | None:
        """None when it does not answer."""
        try:
            answer = self._client.get("/metrics")
        except httpx.TransportError:
            return None
        return parse(answer.text) if answer.status_code == 200 else None


def parse(text: str) -> Numbers:
    """The few numbers we use of vLLM's metrics page, summed over its engines."""
    sums = dict.fromkeys((RUNNING, WAITING, GENERATED, PROMPT), 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return Numbers(
        num_running=sums[RUNNING],
        num_waiting=sums[WAITING],
        generated_tokens=sums[GENERATED],
        prompt_tokens=sums[PROMPT],
    )
