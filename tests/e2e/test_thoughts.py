"""Thoughts and calls that real vLLM takes out of a model's text, on every way to the client: whole, streamed, in bulk.

The model recites (tests/child/reciting.py), and its parsers are found in its chat template.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from inference_worker.work import GenerateWork
from shared import interpreters
from shared.runner import Runner, Worker
from shared.settings import Settings
from tests import serving
from tests.platform import Platform, make_platform, serve

NAME = "thinker"
HELLO: list[Any] = [{"role": "user", "content": "What is two plus one?"}]
THOUGHTS, ANSWER = "Two plus one.", "\n\nIt is three."
NOW: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("model")
    env = os.environ | {"PYTHONPATH": str(serving.ROOT)}
    command = [interpreters.trainer(Settings()), "-m", "tests.child.reciting", str(folder)]
    subprocess.run(command, cwd=serving.ROOT, env=env, check=True, capture_output=True)
    made = make_platform(tmp_path_factory.mktemp("home"), renew_seconds=0.5, keeper_seconds=3.0, lease_seconds=4.0)
    serving.add_model(made, folder, NAME)
    with serving.worker(made):
        serving.deploy(made, NAME, engine="vllm", max_model_len=256)
        serving.await_status(made, NAME, "ready", 450)
        yield made


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with serve(platform) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=NAME, messages=HELLO, max_tokens=40, **more)


def test_thoughts_come_apart_from_the_answer(client: openai.OpenAI) -> None:
    answer = ask(client)
    message = answer.choices[0].message
    assert (message.reasoning, message.content) == (THOUGHTS, ANSWER)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3


def test_thoughts_are_streamed_before_the_answer(client: openai.OpenAI) -> None:
    deltas = [chunk.choices[0].delta.to_dict() for chunk in ask(client, stream=True)]
    told = [(name, delta[name]) for delta in deltas for name in ("reasoning", "content") if delta.get(name)]
    assert len(told) > 2  # on a slow machine several tokens come in one
    assert [name for name, _ in told] == sorted((name for name, _ in told), reverse=True)
    assert "".join(text for _, text in told) == THOUGHTS + ANSWER


def test_thoughts_can_be_left_out(client: openai.OpenAI) -> None:
    kept = ask(client, extra_body={"include_reasoning": False}).choices[0].message
    assert (kept.reasoning, kept.content) == (None, ANSWER)
    none = ask(client, extra_body={"enable_thinking": False})
    assert (none.choices[0].message.reasoning, none.choices[0].message.content) == (None, "It is three.")
    assert none.usage.completion_tokens < 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_comes_as_a_call(client: openai.OpenAI, stream: bool) -> None:
    answer = ask(client, tools=[NOW], stream=stream)
    messages = [chunk.choices[0].delta for chunk in answer] if stream else [answer.choices[0].message]
    calls = [call.function for message in messages for call in message.tool_calls or ()]
    assert "".join(call.name or "" for call in calls) == "now"
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"zone": "UTC"}


def test_thoughts_are_kept_and_counted_in_bulk(client: openai.OpenAI, platform: Platform) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": NAME, "messages": HELLO, "max_tokens": 40}}  # fmt: skip
    file = client.files.create(file=("rows.jsonl", json.dumps(line).encode()), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    worker = Worker(id="generate", works=[GenerateWork()], storage_id=platform.artifacts.storage_id())
    Runner(platform.store, platform.artifacts, platform.settings, worker).look()

    done = client.batches.retrieve(made.id)
    assert done.usage is not None and done.usage.output_tokens_details.reasoning_tokens == 3
    [answered] = [json.loads(line) for line in client.files.content(str(done.output_file_id)).text.splitlines()]
    message = answered["response"]["body"]["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (THOUGHTS, ANSWER)
