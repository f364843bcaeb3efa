"""Deployments on real vLLM: a tiny model and two adapters on its one replica, asked beside each other, killed, started
again and taken down.

One worker, one gateway and one replica for the whole file: vLLM takes half a minute to start. The tests build on each
other, in the order in which they stand.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import psutil
import pytest

from inference_worker.engine import Engine
from inference_worker.work import GenerateWork
from shared import schema
from shared.records import Deployment
from shared.runner import Runner, Worker
from shared.spec import GenerateSpec
from tests import serving
from tests.platform import Platform, jsonl, make_platform, serve, wait_until
from tests.processes import command

BASE, TUNED, TAUGHT = "tiny", "ft:tiny:local::00000001", "taught"
#: On a busy machine vLLM takes minutes to import.
START_SECONDS = 450
LOAD_SECONDS = 60
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
#: What one of the adapters was trained with; the base's own says who speaks, too.
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
pytestmark = pytest.mark.timeout(600)


@dataclass
class Serving:
    platform: Platform
    worker: psutil.Popen
    client: openai.OpenAI

    @property
    def project_id(self) -> str:
        return self.platform.store.projects.default().id

    def deployment(self, name: str) -> Deployment:
        return serving.deployment(self.platform, name)

    def post(self, model: str, **more: Any) -> dict[str, Any]:
        answer = self.platform.post("/v1/deployments", {"model": model, **more})
        assert answer.status_code == 201, answer.get_json()
        return dict(answer.get_json())

    def delete(self, name: str) -> Any:
        return self.platform.client.delete(f"/v1/deployments/{name}", headers=self.platform.headers())

    def await_status(self, name: str, status: str, seconds: float = START_SECONDS) -> Deployment:
        return serving.await_status(self.platform, name, status, seconds)

    def processes(self, name: str) -> list[psutil.Process]:
        return serving.processes(self.platform, self.worker, name)

    def adapters(self) -> set[str]:
        """What vLLM itself says that it has loaded."""
        [replica] = self.deployment(BASE).replicas
        return set(Engine(str(replica.url), str(replica.api_key)).adapters())

    def answer(self, model: str, **more: Any) -> Any:
        answer = self.client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}, **more
        )
        assert answer.usage is not None and answer.usage.completion_tokens == 12
        return answer

    def chat(self, model: str) -> str:
        return str(self.answer(model).choices[0].message.content)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The base deployed and ready, and two adapters after it."""
    models = serving.make_models(tmp_path_factory.mktemp("models"))
    (models / "other" / "chat_template.jinja").write_text(TEMPLATE)
    platform = make_platform(tmp_path_factory.mktemp("home"), renew_seconds=1.0, keeper_seconds=15.0)
    serving.add_model(platform, models / "base", BASE)
    serving.add_model(platform, models / "adapter", TUNED, "adapter", BASE)
    serving.add_model(platform, models / "other", TAUGHT, "adapter", BASE)
    with serving.worker(platform) as worker, serve(platform) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)
        made = Serving(platform=platform, worker=worker, client=client)
        # In bfloat16 near ties fall otherwise in another batch.
        assert made.post(BASE, vllm_max_lora_rank=64, dtype="float32")["host"] is None
        with pytest.raises(openai.InternalServerError, match=r"is (pending|starting)"):
            made.chat(BASE)
        made.await_status(BASE, "ready")
        yield made


def test_a_deployed_model_answers_whole_and_streaming(served: Serving) -> None:
    whole = served.chat(BASE)
    stream = served.client.chat.completions.create(
        model=BASE, messages=HELLO, max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert len(chunks) > 2  # on a slow machine several tokens come in one
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12


def test_adapters_answer_on_the_replica_of_their_base_each_as_itself_whatever_else_is_asked(served: Serving) -> None:
    for name in (TUNED, TAUGHT):
        assert served.post(name)["host"] == BASE
        served.await_status(name, "ready", LOAD_SECONDS)
    assert served.adapters() == {TUNED, TAUGHT}
    alone = {name: served.chat(name) for name in (BASE, TUNED, TAUGHT)}
    assert len(set(alone.values())) == 3

    names = [*alone, f"{BASE}@{TUNED}", f"{BASE}@{TAUGHT}"] * 4
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(served.chat, names))

    assert together == [alone[name.rpartition("@")[2]] for name in names]


def test_an_adapter_is_asked_with_the_template_that_it_was_trained_with(served: Serving) -> None:
    tokens = {name: served.answer(name).usage.prompt_tokens for name in (BASE, TUNED, TAUGHT)}
    # A token for each byte of the template's text.
    assert tokens[TAUGHT] == len("hello") < tokens[TUNED] == tokens[BASE]


def test_a_route_shares_its_requests_between_adapters(served: Serving) -> None:
    targets = [{"model": TUNED, "weight": 1}, {"model": f"{BASE}@{TAUGHT}", "weight": 1}]
    made = served.platform.post("/v1/routes", {"name": "prod", "targets": targets})
    assert made.status_code == 201, made.get_json()
    with ThreadPoolExecutor(8) as pool:
        heard = Counter(answer.usage.prompt_tokens for answer in pool.map(served.answer, ["prod"] * 24))
    # Each with its own template.
    assert set(heard) == {served.answer(name).usage.prompt_tokens for name in (TUNED, TAUGHT)}


def test_beams_the_length_of_all_and_responses_reach_vllm(served: Serving) -> None:
    def ask(**extra: Any) -> Any:
        body = {"ignore_eos": True, **extra}
        return served.client.chat.completions.create(model=BASE, messages=HELLO, extra_body=body)

    searched = ask(num_beams=4, n=2, max_new_tokens=6)
    assert [choice.index for choice in searched.choices] == [0, 1]
    assert len(ask(num_beams=4, max_new_tokens=6).choices) == 1
    assert ask(max_length=40).usage.total_tokens == 40
    told = ask(logprobs=True, top_logprobs=3, max_new_tokens=2, do_sample=False).choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in told] == [3, 3]
    with served.client.responses.create(
        model=BASE, input="hello", max_output_tokens=5, temperature=0, stream=True, extra_body={"ignore_eos": True}
    ) as events:
        last = list(events)[-1]
    assert last.type in ("response.completed", "response.incomplete")
    counted = served.client.responses.create(
        model=BASE, input="hello", temperature=0, top_logprobs=2, include=["message.output_text.logprobs"],
        extra_body={"max_length": 400, "ignore_eos": True},
    )  # fmt: skip
    assert counted.usage is not None and counted.usage.total_tokens == 400


def test_what_is_too_long_for_the_model_is_told_with_its_context(served: Serving) -> None:
    # Deployed with 4096; the model has 512 positions.
    with pytest.raises(openai.BadRequestError, match="512"):
        served.client.completions.create(model=BASE, prompt="x" * 600, max_tokens=1)


def test_the_replicas_key_is_not_on_the_command_line_and_is_needed(served: Serving) -> None:
    [replica] = served.deployment(BASE).replicas
    assert replica.api_key and replica.url
    assert not any(replica.api_key in " ".join(command(process)) for process in served.processes(BASE))
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{replica.url}/v1", api_key="guess", max_retries=0).models.list()


def test_a_generation_job_answers_every_row_with_a_hosted_adapter(served: Serving) -> None:
    platform, rows = served.platform, [{"custom_id": f"row-{n}", "prompt": f"{n} is"} for n in range(20)]
    path = platform.settings.home / "rows.jsonl"
    path.write_bytes(jsonl([*rows, {"custom_id": "too long", "prompt": "x" * 600}]))
    put = platform.artifacts.put_file(path, platform.artifacts.uri("rows.jsonl"))
    platform.store.datasets.create(
        served.project_id, name="rows", filename="rows.jsonl", purpose="batch", format=None, columns={}, num_rows=21,
        size_bytes=put.size_bytes, digest=put.digest, uri=put.uri,
    )  # fmt: skip
    spec = schema.load(GenerateSpec, {"model": TUNED, "dataset": "rows", "max_new_tokens": 8})
    job, _ = platform.store.jobs.create(served.project_id, kind="generate", spec=schema.to_wire(spec))
    worker = Worker(id="generate", works=[GenerateWork()], storage_id=platform.artifacts.storage_id())

    Runner(platform.store, platform.artifacts, platform.settings, worker).look()

    done = platform.store.jobs.get(served.project_id, job.id)
    assert done.status == "succeeded", done.error
    assert (done.result["num_rows"], done.result["num_failed"]) == (21, 1)
    output = platform.store.datasets.get(served.project_id, done.result["output_file"])
    lines = [json.loads(line) for line in platform.artifacts.open(output.uri).read().splitlines()]
    assert {line["custom_id"] for line in lines if line["error"] is None} == {row["custom_id"] for row in rows}


def test_an_adapter_that_is_deleted_is_unloaded_and_the_others_answer_on(served: Serving) -> None:
    expected = served.chat(TUNED)
    assert served.delete(BASE).status_code == 409
    assert served.delete(TAUGHT).get_json()["status"] == "stopped"

    wait_until(lambda: served.adapters() == {TUNED}, 30, "it is unloaded")
    assert served.chat(TUNED) == expected
    with pytest.raises(openai.InternalServerError, match="not deployed"):
        served.chat(TAUGHT)


@pytest.mark.slow
def test_a_killed_engine_ends_the_stream_with_an_error_and_is_replaced_with_its_adapters(served: Serving) -> None:
    expected, before = served.chat(TUNED), served.processes(BASE)
    engine = next(process for process in before if "EngineCore" in " ".join(command(process)))
    # Sixteen answers at once take longer than it takes to kill.
    stream = served.client.completions.create(
        model=BASE, prompt="x", n=16, max_tokens=490, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    engine.kill()

    with pytest.raises(openai.APIError):
        list(stream)
    wait_until(lambda: served.deployment(BASE).status != "ready", 60, "the crash is noticed")
    assert served.deployment(BASE).error and served.deployment(TUNED).status != "ready"
    served.await_status(BASE, "ready")
    assert served.deployment(BASE).replicas[0].error is None
    served.await_status(TUNED, "ready", LOAD_SECONDS)
    assert served.chat(TUNED) == expected
    assert not any(process.is_running() for process in before)


def test_a_deleted_deployment_leaves_no_process_and_answers_no_more(served: Serving) -> None:
    processes = served.processes(BASE)
    assert len(processes) >= 3
    id = served.deployment(BASE).id
    for name in (TUNED, BASE):
        assert served.delete(name).status_code == 200

    wait_until(lambda: served.deployment(id).status == "stopped", 60, "it is stopped")
    assert not any(process.is_running() for process in processes)
    with pytest.raises(openai.InternalServerError, match="not deployed"):
        served.chat(BASE)


def test_a_killed_worker_takes_its_replicas_with_it_and_another_gives_them_back_when_it_ends(served: Serving) -> None:
    served.post(BASE)
    wait_until(lambda: len(served.processes(BASE)) >= 2, 60, "vLLM is being started")
    processes = served.processes(BASE)
    served.worker.send_signal(signal.SIGKILL)
    served.worker.wait()
    wait_until(lambda: not any(process.is_running() for process in processes), 15, "no orphan is left")

    [lost] = served.deployment(BASE).replicas
    # As the sweep does when the lease has ended.
    served.platform.store.replicas.reclaim(lost.id, lost.attempt, lost.beat, "worker was silent")
    with serving.worker(served.platform) as worker:
        served.worker = worker
        wait_until(lambda: len(served.processes(BASE)) >= 2, 60, "vLLM is being started again")
        processes = served.processes(BASE)
        worker.terminate()
        assert worker.wait(60) == 0
    assert not any(process.is_running() for process in processes)
    [row] = served.deployment(BASE).replicas
    assert (row.status, row.worker_id, row.url) == ("pending", None, None)
