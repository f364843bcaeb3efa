"""Adapters on the replicas of their base, with the transformers engine: posted, asked beside each other, changed,
loaded again after a crash, taken away.

One worker, one gateway and one replica for the whole file; the tests build on each other, in their order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import psutil
import pytest

from inference_worker.engine import Engine
from shared.records import Deployment
from tests import serving
from tests.platform import Platform, make_platform, serve, wait_until
from tests.processes import command

BASE, FIRST, SECOND = "tiny", "ft:tiny:local::00000001", "ft:tiny:local::00000002"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
pytestmark = pytest.mark.timeout(180)


@dataclass
class Running:
    platform: Platform
    worker: psutil.Popen
    client: openai.OpenAI

    def post(self, model: str, **more: Any) -> Any:
        return self.platform.post("/v1/deployments", {"model": model, "engine": "transformers", **more})

    def ask(self, model: str, **more: Any) -> str:
        answer = self.client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}, **more
        )
        return str(answer.choices[0].message.content)

    def engine(self) -> Engine:
        [replica] = serving.deployment(self.platform, BASE).replicas
        return Engine(replica.url or "", replica.api_key or "")

    def ready(self, name: str) -> Deployment:
        return serving.await_status(self.platform, name, "ready", 60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = serving.make_models(tmp_path_factory.mktemp("models"))
    platform = make_platform(tmp_path_factory.mktemp("home"), renew_seconds=1.0, keeper_seconds=15.0)
    serving.add_model(platform, models / "base", BASE)
    for name, folder in ((FIRST, "adapter"), (SECOND, "other")):
        serving.add_model(platform, models / folder, name, "adapter", BASE)
    with serving.worker(platform) as worker, serve(platform) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)
        running = Running(platform=platform, worker=worker, client=client)
        # In bfloat16 what else is in a batch decides between tokens that are nearly as likely.
        assert running.post(BASE, vllm_max_lora_rank=64, infer_dtype="float32").status_code == 201
        running.ready(BASE)
        yield running


def test_adapters_answer_within_seconds_beside_their_base(running: Running) -> None:
    first = running.post(FIRST, name="bot").get_json()
    assert (first["host"], first["replicas"], first["placement"]) == (BASE, [], None)
    # The first brings peft along.
    running.ready("bot")
    began = time.monotonic()
    assert running.post(SECOND).get_json()["host"] == BASE
    running.ready(SECOND)
    took = time.monotonic() - began

    answers = {name: running.ask(name) for name in (BASE, "bot", SECOND)}
    assert len(set(answers.values())) == 3
    assert running.ask(f"{BASE}@bot") == running.ask(f"{BASE}@{FIRST}") == answers["bot"]
    told = running.platform.get(f"/v1/deployments/{BASE}").get_json()
    assert told["replicas"][0]["adapters"] == [FIRST, SECOND]
    assert took < 10  # 1 s on a quiet machine


def test_a_host_with_guests_is_not_deleted(running: Running) -> None:
    refused = running.platform.client.delete(f"/v1/deployments/{BASE}", headers=running.platform.headers())
    assert refused.status_code == 409
    assert "'bot'" in refused.get_json()["error"]["message"]
    running.ready(BASE)


def test_another_version_takes_over_without_a_failed_request(running: Running) -> None:
    before, expected = running.ask("bot"), running.ask(SECOND)
    heard: list[str] = []
    changed = threading.Event()

    def ask() -> None:
        while not changed.is_set():
            heard.append(running.ask("bot"))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            address, headers = "/v1/deployments/bot", running.platform.headers()
            changed_to = running.platform.client.patch(address, json={"model": SECOND}, headers=headers).get_json()
            assert (changed_to["model"], changed_to["status"]) == (SECOND, "ready"), changed_to
            wait_until(lambda: heard and heard[-1] == expected, 30, "the other one answers")
            wait_until(lambda: FIRST not in running.engine().adapters(), 30, "the one before is unloaded")
        finally:
            changed.set()

    assert [asked.exception() for asked in asking] == [None, None, None]
    assert set(heard) == {before, expected}


def test_adapters_are_loaded_again_after_a_crash(running: Running) -> None:
    expected = running.ask("bot")
    found = serving.processes(running.platform, running.worker, BASE)
    next(process for process in found if "transformers_server" in " ".join(command(process)[:4])).kill()

    wait_until(lambda: serving.deployment(running.platform, "bot").status != "ready", 30, "it is noticed")
    running.ready("bot")
    assert running.ask("bot") == expected


def test_an_adapter_that_nobody_wants_is_unloaded_and_its_base_stays(running: Running) -> None:
    for name in ("bot", SECOND):
        gone = running.platform.client.delete(f"/v1/deployments/{name}", headers=running.platform.headers())
        assert gone.get_json()["status"] == "stopped"
    wait_until(lambda: running.engine().adapters() == {}, 30, "they are unloaded")
    with pytest.raises(openai.InternalServerError, match="not deployed"):
        running.ask(SECOND)
    assert running.ask(BASE)
