"""A vLLM server of one export's folder: started, asked over HTTP as any client asks, and ended.

It is started with the same command line as a deployment's. That nothing of it outlives the phase, also when this
process dies, is seen to by the keeper.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from export_worker.child.answers import Answer
from export_worker.child.watch import Watch
from shared import vllm_arguments, vllm_log
from shared.errors import TunesmithError
from shared.spec import DeploySpec
from shared.vllm_arguments import Address, Files, Machine

HOST = "127.0.0.1"
#: Between two looks whether it is up.
TICK_SECONDS = 0.5
#: The first answer may compile kernels.
ANSWER_SECONDS = 600.0
#: How long it may take to end by itself.
GOODBYE_SECONDS = 15.0
NAME = "export"
#: Tokens beside prompt and answer that vLLM keeps for itself.
SPARE_TOKENS = 8


class NotServed(TunesmithError):
    """vLLM does not load these files."""

    code = "not_served"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where it runs, and how long it may take to be there."""

    machine: Machine
    start_seconds: float
    log: Path


@dataclass(frozen=True, kw_only=True)
class Scored:
    #: Of the scored tokens, nats.
    losses: list[float]


class Client:
    """The routes that are asked. Raises NotServed for what the server refuses, or when it is gone."""

    def __init__(self, url: str, key: str, max_tokens: int):
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_SECONDS, trust_env=False
        )
        self._max_tokens = max_tokens

    def close(self) -> None:
        self._http.close()

    def is_healthy(self) -> bool:
        try:
            return self._http.get("/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def tokens(self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None) -> list[int]:
        """What vLLM's own tokenizer and template make of a conversation."""
        body = {"model": NAME, "messages": list(messages), "add_generation_prompt": True}
        return list(self._post("/tokenize", body | ({"tools": tools} if tools else {}))["tokens"])

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids that a chat completion is made of."""
        body = {"model": NAME, "messages": list(messages), "max_tokens": 1, "temperature": 0, "return_token_ids": True}
        return list(self._post("/v1/chat/completions", body)["prompt_token_ids"])

    def losses(self, ids: Sequence[int], score_from: int) -> list[float]:
        """Of each token from there on, given all before it, nats."""
        body = {"model": NAME, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        told = self._post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
        pairs = list(zip(ids, told, strict=True))[score_from:]
        return [-float(step[str(token)]["logprob"]) for token, step in pairs]

    def answer(self, prompt: Sequence[int]) -> Answer:
        body = {
            "model": NAME, "prompt": list(prompt), "max_tokens": self._max_tokens, "temperature": 0,
            "repetition_penalty": 1.0, "return_token_ids": True,
        }  # fmt: skip
        told = self._post("/v1/completions", body)["choices"][0]
        return Answer(ids=list(told["token_ids"]), text=told["text"], ended=told["finish_reason"] == "stop")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self._http.post(path, json=body)
        except httpx.TransportError as error:
            raise NotServed(f"vLLM is up but does not answer: {error or type(error).__name__}") from error
        if answer.status_code != 200:
            raise NotServed(f"vLLM is up but refuses to answer ({answer.status_code}): {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def serving(
    folder: Path, place: Place, watch: Watch, *, longest: int, answer_tokens: int, trust: bool
) -> Iterator[Client]:
    """A server that answers, until the end of the block. Raises NotServed with what its log names."""
    spec = DeploySpec(
        model=NAME, max_model_len=longest + answer_tokens + SPARE_TOKENS, enforce_eager=True, trust_remote_code=trust
    )
    files = Files(model=str(folder), context_length=vllm_arguments.context_length(folder))
    address, key = Address(host=HOST, port=_free_port()), secrets.token_urlsafe(32)
    argv = vllm_arguments.argv(sys.executable, spec, files, place.machine, served_name=NAME, address=address)
    env = os.environ | vllm_arguments.env(files, place.machine, api_key=key)
    with place.log.open("ab") as log:
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
    client = Client(address.url, key, answer_tokens)
    try:
        _await(process, client, place, watch)
        yield client
    except NotServed as error:
        # A server whose engine has died says only that it has.
        why = vllm_log.cause(place.log)
        raise NotServed(f"{error}: {why}" if why and why not in str(error) else str(error)) from error
    finally:
        client.close()
        _end(process)


def _await(process: subprocess.Popen[bytes], client: Client, place: Place, watch: Watch) -> None:
    deadline = time.monotonic() + place.start_seconds
    while not client.is_healthy():
        watch.check()
        if process.poll() is not None:
            raise NotServed(vllm_log.cause(place.log) or f"vLLM ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise NotServed(f"vLLM was not up after {place.start_seconds:.0f} s")
        time.sleep(TICK_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its engine is a process of its own, which a killed server would leave behind."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GOODBYE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
