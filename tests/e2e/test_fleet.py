"""A deployment as it goes on, with real servers: updated and scaled to none under requests, its worker killed.

One gateway, the engine transformers on a tiny model; the tests build on each other, in their order.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import openai
import psutil
import pytest
from prometheus_client import CollectorRegistry

from shared.metrics.counted import Metrics
from shared.queue import Queue
from shared.sweep import Sweep
from tests import serving
from tests.platform import Platform, make_platform, serve, wait_until
from tests.processes import command

NAME = "tiny"
#: Never within a test that passes.
PATIENCE_SECONDS = 200
pytestmark = pytest.mark.timeout(500)


@dataclass
class Running:
    platform: Platform
    url: str
    sweep: Sweep
    workers: dict[str, psutil.Popen] = field(default_factory=dict)

    def look(self) -> dict[str, Any]:
        return dict(self.platform.get(f"/v1/deployments/{NAME}").get_json())

    def patch(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.platform.client.patch(f"/v1/deployments/{NAME}", json=body, headers=self.platform.headers())
        assert answer.status_code == 200, answer.get_json()
        return dict(answer.get_json())

    def events(self) -> list[dict[str, Any]]:
        return list(self.platform.get(f"/v1/deployments/{NAME}/events?limit=1000").get_json()["data"])

    def await_update(self, status: str) -> dict[str, Any]:
        wait_until(lambda: self.look()["rollout"]["status"] != "running", PATIENCE_SECONDS, "the update is over")
        now = self.look()
        assert now["rollout"]["status"] == status, now
        return now

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.platform.keys["user"], max_retries=0)

    def ask(self, **more: Any) -> Any:
        hello: list[Any] = [{"role": "user", "content": "hello"}]
        return self.client.chat.completions.create(model=NAME, messages=hello, max_tokens=8, temperature=0, **more)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = serving.make_models(tmp_path_factory.mktemp("models"))
    home = tmp_path_factory.mktemp("home")
    platform = make_platform(home, renew_seconds=0.5, keeper_seconds=8.0, lease_seconds=9.0)
    serving.add_model(platform, models / "base", NAME)
    broken = models / "broken"
    broken.mkdir()
    for file in (models / "base").iterdir():
        whole = file.read_bytes()
        (broken / file.name).write_bytes(whole[:100] if file.suffix == ".safetensors" else whole)
    serving.add_model(platform, broken, "broken")
    sweep = Sweep(platform.store, platform.settings, Queue(platform.settings), Metrics(CollectorRegistry()))
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serve(platform))
        made = Running(platform=platform, url=url, sweep=sweep)
        for name in ("first", "second"):
            settings = replace(platform.settings, worker_id=name)
            made.workers[name] = stack.enter_context(serving.worker(replace(platform, settings=settings)))
        posted = platform.post("/v1/deployments", {"model": NAME, "engine": "transformers", "max_model_len": 256})
        assert posted.status_code == 201, posted.get_json()
        serving.await_status(platform, NAME, "ready")
        yield made


@contextlib.contextmanager
def constant_requests(running: Running, num_streams: int = 2) -> Iterator[Counter[str]]:
    """Answers that come one after another, whole and streamed, until the block ends; counted by what came of them."""
    seen: Counter[str] = Counter()
    end = threading.Event()

    def ask(number: int) -> None:
        # The pause is the machine's for the replica that starts.
        while not end.wait(0.3):
            try:
                if number % 2:
                    chunks = list(running.ask(stream=True))
                    seen["whole" if chunks[-1].choices[0].finish_reason else "cut off"] += 1
                else:
                    seen["whole" if running.ask().choices[0].finish_reason else "cut off"] += 1
            except openai.OpenAIError as error:
                seen[f"{type(error).__name__}: {error}"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_streams)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: seen["whole"] >= num_streams, PATIENCE_SECONDS, "requests are answered")
        yield seen
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_an_update_under_constant_requests_costs_none_of_them(running: Running) -> None:
    [before] = serving.deployment(running.platform, NAME).replicas

    with constant_requests(running) as seen:
        running.patch({"max_model_len": 128})
        done = running.await_update("done")
        answered = seen["whole"]
        wait_until(lambda: seen["whole"] > answered + 4, PATIENCE_SECONDS, "the new one answers")

    assert seen.keys() == {"whole"}, seen
    wait_until(lambda: len(running.look()["replicas"]) == 1, PATIENCE_SECONDS, "the old one is gone")
    [after] = running.look()["replicas"]
    assert after["id"] != before.id and (after["generation"], done["generation"]) == (2, 2)
    with pytest.raises(openai.BadRequestError, match="128"):
        running.ask(stop=None, extra_body={"max_tokens": 200})
    assert not any(before.id in process.cwd() for process in _keepers(running))


def test_an_update_that_fails_leaves_the_old_one_answering_and_says_why(running: Running) -> None:
    with constant_requests(running) as seen:
        running.patch({"model": "broken"})
        back = running.await_update("rolled_back")

    assert seen.keys() == {"whole"}, seen
    assert (back["status"], back["model"], back["generation"]) == ("ready", NAME, 2)
    failed = next(event for event in reversed(running.events()) if event["type"] == "failed")
    assert failed["level"] == "error" and "afetensor" in failed["data"]["log_tail"], running.events()
    assert back["rollout"]["error"] == failed["data"]["error"]


def test_another_worker_takes_over_from_one_that_died(running: Running) -> None:
    [held] = [one for one in running.look()["replicas"] if one["status"] == "ready"]
    running.workers[held["worker_id"]].kill()

    def taken() -> bool:
        running.sweep.reclaim_replicas()
        [now] = [one for one in running.look()["replicas"] if one["id"] == held["id"]] or [held]
        return now["status"] == "ready" and now["worker_id"] != held["worker_id"]

    wait_until(taken, PATIENCE_SECONDS, "the other worker serves it")
    assert running.ask().choices[0].finish_reason
    # The worker may have held another one, which was about to end.
    types = [event["type"] for event in running.events() if event["replica_id"] == held["id"]]
    assert types[types.index("lost") :][:4] == ["lost", "pending", "starting", "ready"]


def test_one_that_nobody_asks_stops_and_the_next_request_waits_for_it_to_be_there_again(running: Running) -> None:
    running.patch({"idle_timeout_seconds": 1, "wake_timeout_seconds": PATIENCE_SECONDS})

    def asleep() -> bool:
        running.sweep.scale_deployments()
        return bool(running.look()["status"] == "idle")

    wait_until(asleep, PATIENCE_SECONDS, "it has no replica any more")
    assert running.look()["num_wanted"] == 0 and not _keepers(running)

    assert running.ask(timeout=PATIENCE_SECONDS).choices[0].finish_reason
    assert [event["type"] for event in running.events()][-5:] == ["idle", "stopped", "woken", "starting", "ready"]


def _keepers(running: Running) -> list[psutil.Process]:
    below = [process for worker in running.workers.values() for process in worker.children(recursive=True)]
    return [process for process in below if "keeper.py" in " ".join(command(process))]
