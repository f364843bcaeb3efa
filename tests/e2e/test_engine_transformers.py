"""Deployments with `engine: transformers`: posted, started, asked through the gateway by the openai client, killed.

One worker, one gateway and one replica for the whole file; the tests build on each other, in their order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from inference_worker.engine import Engine
from inference_worker.work import GenerateWork
from shared.asking import CHAT
from shared.runner import Runner, Worker
from tests import serving
from tests.platform import Platform, jsonl, make_platform, serve, wait_until
from tests.processes import command

BASE, OTHER = "tiny", "ft:tiny:local::00000001"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


@dataclass
class Running:
    platform: Platform
    worker: psutil.Popen
    client: openai.OpenAI
    models: Path

    def chat(self, model: str, **more: Any) -> Any:
        given = {"max_tokens": 12, "temperature": 0} | more
        return self.client.chat.completions.create(
            model=model, messages=HELLO, extra_body={"ignore_eos": True}, **given
        )

    def engine(self, name: str) -> psutil.Process:
        found = serving.processes(self.platform, self.worker, name)
        return next(process for process in found if "transformers_server" in " ".join(command(process)[:4]))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = serving.make_models(tmp_path_factory.mktemp("models"))
    platform = make_platform(tmp_path_factory.mktemp("home"), renew_seconds=1.0, keeper_seconds=15.0)
    serving.add_model(platform, models / "base", BASE)
    serving.add_model(platform, models / "other", OTHER, "adapter", BASE)
    with serving.worker(platform) as worker, serve(platform) as url:
        posted = platform.post("/v1/deployments", {"model": BASE, "engine": "transformers"})
        assert posted.status_code == 201, posted.get_json()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)
        serving.await_status(platform, BASE, "ready")
        yield Running(platform=platform, worker=worker, client=client, models=models)


def test_it_answers_whole_and_streaming_and_tells_its_usage(running: Running) -> None:
    whole = running.chat(BASE, n=2, logprobs=True, top_logprobs=3)
    stream = list(running.chat(BASE, stream=True, stream_options={"include_usage": True}))

    text = whole.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == text
    assert whole.choices[1].message.content == text
    assert whole.choices[0].finish_reason == "length"
    assert len(whole.choices[0].logprobs.content) == 12
    assert whole.usage.completion_tokens == 24
    assert len(stream) > 4 and stream[-1].usage.completion_tokens == 12


def test_an_answer_follows_its_schema(running: Running) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}, "ok": {"type": "boolean"}},
              "required": ["n", "ok"], "additionalProperties": False}  # fmt: skip
    shape: Any = {"type": "json_schema", "json_schema": {"name": "told", "schema": schema}}
    answer = running.client.chat.completions.create(
        model=BASE, messages=HELLO, max_tokens=450, temperature=1, seed=3, response_format=shape
    )
    told = json.loads(answer.choices[0].message.content or "")
    assert set(told) == {"n", "ok"} and type(told["ok"]) is bool
    picked = running.client.completions.create(
        model=BASE, prompt="x", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert picked.choices[0].text in ("yes", "no") and picked.choices[0].finish_reason == "stop"


def test_an_adapter_answers_beside_its_base_on_the_same_replica(running: Running) -> None:
    posted = running.platform.post("/v1/deployments", {"model": OTHER, "engine": "transformers"})
    assert posted.status_code == 201, posted.get_json()
    serving.await_status(running.platform, OTHER, "ready")

    assert len(running.platform.store.replicas.list(running.platform.store.projects.default().id)) == 1
    texts = [running.chat(name).choices[0].message.content for name in (BASE, OTHER, f"{BASE}@{OTHER}", BASE)]
    assert texts[0] == texts[3] != texts[1] == texts[2]
    running.platform.client.delete(f"/v1/deployments/{OTHER}", headers=running.platform.headers())
    wait_until(lambda: OTHER not in serving.deployment(running.platform, BASE).replicas[0].adapters, 20, "it is gone")


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(running: Running, tmp_path: Path) -> None:
    folder = shutil.copytree(running.models / "base", tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"no weights")
    serving.add_model(running.platform, folder, "broken")
    serving.deploy(running.platform, "broken")

    serving.await_status(running.platform, "broken", "failed")
    told = running.platform.get("/v1/deployments/broken").get_json()
    running.platform.store.deployments.delete(running.platform.store.projects.default().id, "broken")
    assert "transformers ended with exit code 1" in told["error"] and "SafetensorError" in told["error"]
    assert "SafetensorError" in told["replicas"][0]["log_tail"]


def test_what_it_cannot_do_is_refused_under_its_field(running: Running) -> None:
    with pytest.raises(openai.BadRequestError, match=r"max_tokens.*512"):
        running.chat(BASE, max_tokens=600)
    with pytest.raises(openai.BadRequestError, match=r"prompt_logprobs.*engine vllm"):
        running.client.completions.create(model=BASE, prompt="x", extra_body={"prompt_logprobs": 1})


def test_parameters_of_llama_factory_presets_and_the_deployment_reach_the_model(running: Running) -> None:
    platform, headers = running.platform, running.platform.headers()
    changed = platform.client.patch(f"/v1/deployments/{BASE}", json={"generation": {"max_tokens": 5}}, headers=headers)
    assert changed.status_code == 200
    preset = {"name": "searched", "parameters": {"num_beams": 3, "max_new_tokens": 6, "length_penalty": 0.5}}
    assert platform.post("/v1/presets", preset).status_code == 201

    def ask(**said: Any) -> Any:
        body = {"model": BASE, "messages": HELLO, "ignore_eos": True, **said}
        answer = platform.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.get_json()
        return answer.get_json()

    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 0, "seed": 5, "max_new_tokens": 8}
    greedy = ask(do_sample=False, max_new_tokens=8)["choices"][0]["message"]["content"]
    assert ask(**drawn)["choices"] == ask(**drawn)["choices"]
    assert ask(**drawn)["choices"][0]["message"]["content"] != greedy
    usage = ask(max_length=40)["usage"]
    assert usage["total_tokens"] == 40 and usage["completion_tokens"] == 40 - usage["prompt_tokens"]
    searched = ask(preset="searched", n=2)
    assert [choice["index"] for choice in searched["choices"]] == [0, 1]
    texts = [choice["message"]["content"] for choice in searched["choices"]]
    assert texts[0] != texts[1] and ask(preset="searched")["choices"] == searched["choices"][:1]
    assert ask()["usage"]["completion_tokens"] == 5


def test_a_whole_batch_is_answered_as_its_rows_would_be(running: Running) -> None:
    rows = [{"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": asked(f"{n} is")} for n in range(12)]
    limited = asked("7 is", max_length=40, max_tokens=None, ignore_eos=True)
    rows.append({"custom_id": "limited", "method": "POST", "url": CHAT, "body": limited})
    rows.append({"custom_id": "too long", "method": "POST", "url": CHAT, "body": asked("x", max_tokens=600)})
    file = running.client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="batch")
    batch = running.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    platform = running.platform
    worker = Worker(id="generate", works=[GenerateWork()], storage_id=platform.artifacts.storage_id())

    Runner(platform.store, platform.artifacts, platform.settings, worker).look()

    done = running.client.batches.retrieve(batch.id)
    assert done.status == "completed" and done.output_file_id and done.error_file_id, done.errors
    assert done.request_counts is not None and done.usage is not None
    assert done.request_counts.model_dump() == {"completed": 13, "failed": 1, "total": 14}
    answers = lines(running.client.files.content(done.output_file_id).text)
    counted = answers["limited"]["usage"]
    assert counted["total_tokens"] == 40 and done.usage.output_tokens == 12 * 12 + counted["completion_tokens"]
    direct = running.client.chat.completions.create(**asked("7 is"))
    assert answers["r7"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
    assert answers["r7"]["model"] == BASE and len(answers) == 13
    assert "512" in running.client.files.content(done.error_file_id).text


def asked(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": BASE, "messages": messages, "max_tokens": 12, "temperature": 0, "logit_bias": {"1": -100}} | more


def lines(text: str) -> dict[str, Any]:
    return {line["custom_id"]: line["response"]["body"] for line in map(json.loads, text.splitlines())}


def test_a_killed_engine_ends_the_stream_with_an_error_and_is_replaced(running: Running) -> None:
    engine = running.engine(BASE)
    stream = running.chat(BASE, n=16, max_tokens=470, stream=True)
    next(iter(stream))
    engine.kill()

    with pytest.raises(openai.APIError):
        list(stream)
    wait_until(lambda: serving.deployment(running.platform, BASE).status != "ready", 30, "the crash is noticed")
    [replica] = serving.deployment(running.platform, BASE).replicas
    assert replica.error is not None and "transformers was ended by signal 9" in replica.error
    serving.await_status(running.platform, BASE, "ready")
    assert running.chat(BASE).choices[0].message.content


def test_a_client_that_leaves_ends_its_generation(running: Running) -> None:
    [replica] = serving.deployment(running.platform, BASE).replicas
    engine = Engine(replica.url or "", replica.api_key or "")

    def load() -> float:
        numbers = engine.numbers()
        return numbers.load if numbers else -1

    stream = running.chat(BASE, n=16, max_tokens=470, stream=True)
    next(iter(stream))
    busy = load()
    stream.close()
    wait_until(lambda: load() == 0, 5, "nothing is computed any more")
    assert busy == 16
