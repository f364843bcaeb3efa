"""Deployments on real vLLM: a tiny model and an adapter of it are served, asked, killed, restarted and taken down.

One worker, one gateway and two replicas for the whole file: vLLM takes half a minute to start. The tests build on each
other, in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from inference_worker.work import GenerateWork
from shared import interpreters, schema
from shared.records import Deployment, NewModel
from shared.runner import Runner, Worker
from shared.settings import Settings, process_environment
from shared.spec import DeploySpec, GenerateSpec
from tests.platform import Platform, jsonl, make_platform, serve, wait_until

ROOT = Path(__file__).resolve().parents[2]
BASE, TUNED = "tiny", "ft:tiny:local::00000001"
#: On a busy machine vLLM takes minutes to import.
START_SECONDS = 280
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
MAKE_MODELS = """
import sys
from pathlib import Path
from tests.child.export_fixtures import llama, lora
folder = Path(sys.argv[1])
base = llama(folder / "base", hidden_size=128, intermediate_size=256, max_position_embeddings=512)
lora(base, folder / "adapter", r=40)
"""
pytestmark = pytest.mark.timeout(400)


@dataclass
class Serving:
    platform: Platform
    worker: subprocess.Popen[bytes]
    client: openai.OpenAI
    log: Path

    @property
    def project_id(self) -> str:
        return self.platform.store.projects.default().id

    def deployment(self, name: str) -> Deployment:
        return self.platform.store.deployments.get(self.project_id, name)

    def deploy(self, model: str) -> None:
        spec = schema.to_wire(schema.load(DeploySpec, {"model": model, "max_model_len": 4096}))
        self.platform.store.deployments.create(self.project_id, name=model, model_name=model, spec=spec)

    def await_status(self, name: str, status: str, seconds: float = START_SECONDS) -> Deployment:
        wait_until(lambda: self.deployment(name).status == status, seconds, f"{name} is {status}")
        return self.deployment(name)

    def processes(self, name: str) -> list[psutil.Process]:
        """Everything that runs for the one replica of a deployment, its keeper included."""
        id = self.deployment(name).replicas[0].id
        below = psutil.Process(self.worker.pid).children(recursive=True)
        keepers = [process for process in below if "keeper.py" in " ".join(process.cmdline()) and id in process.cwd()]
        return [process for keeper in keepers for process in [keeper, *keeper.children(recursive=True)]]

    def chat(self, model: str, **more: Any) -> str:
        answer = self.client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}, **more
        )
        assert answer.usage is not None and answer.usage.completion_tokens == 12
        assert answer.model == model
        return str(answer.choices[0].message.content)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [interpreters.trainer(Settings()), "-c", MAKE_MODELS, str(folder)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Both models deployed and ready."""
    home = tmp_path_factory.mktemp("home")
    platform = make_platform(home, renew_seconds=1.0, keeper_seconds=15.0)
    add_model(platform, models / "base", BASE, "base")
    add_model(platform, models / "adapter", TUNED, "adapter", BASE)
    log = home / "worker.log"
    worker = start_worker(platform, log)
    try:
        with serve(platform) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)
            serving = Serving(platform=platform, worker=worker, client=client, log=log)
            for name in (BASE, TUNED):
                serving.deploy(name)
            with pytest.raises(openai.InternalServerError, match=r"is (pending|starting)"):
                serving.chat(BASE)
            for name in (BASE, TUNED):
                serving.await_status(name, "ready")
            yield serving
    finally:
        serving.worker.terminate()
        serving.worker.wait(60)


def start_worker(platform: Platform, log: Path) -> subprocess.Popen[bytes]:
    env = process_environment("PATH", "HOME") | platform.settings.environment() | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "inference_worker"], env=env, cwd="/", stderr=output)


def add_model(platform: Platform, folder: Path, name: str, kind: str, base: str | None = None) -> None:
    sealed = platform.artifacts.put_folder(folder, platform.artifacts.uri("models", name.replace(":", "-")))
    new = NewModel(
        name=name, kind=kind, base_model=base, uri=sealed.uri, digest=sealed.digest, size_bytes=sealed.size_bytes,
        format="safetensors",
    )  # fmt: skip
    platform.store.models.create(platform.store.projects.default().id, new)


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


def test_an_adapter_answers_as_itself_and_not_as_its_base(served: Serving) -> None:
    assert served.chat(TUNED) != served.chat(BASE)


def test_what_is_too_long_for_the_model_is_told_with_its_context(served: Serving) -> None:
    # Deployed with 4096; the model has 512 positions.
    with pytest.raises(openai.BadRequestError, match="512"):
        served.client.completions.create(model=BASE, prompt="x" * 600, max_tokens=1)


def test_the_replicas_key_is_not_on_the_command_line_and_is_needed(served: Serving) -> None:
    [replica] = served.deployment(BASE).replicas
    assert replica.api_key and replica.url
    assert not any(replica.api_key in " ".join(process.cmdline()) for process in served.processes(BASE))
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{replica.url}/v1", api_key="guess", max_retries=0).models.list()


def test_a_generation_job_answers_every_row(served: Serving) -> None:
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


def test_a_killed_engine_ends_the_stream_with_an_error_and_is_replaced(served: Serving) -> None:
    before = served.processes(BASE)
    engine = next(process for process in before if "EngineCore" in " ".join(process.cmdline()))
    # Sixteen answers at once take longer than it takes to kill.
    stream = served.client.completions.create(
        model=BASE, prompt="x", n=16, max_tokens=490, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    engine.kill()

    with pytest.raises(openai.APIError):
        list(stream)
    wait_until(lambda: served.deployment(BASE).status != "ready", 60, "the crash is noticed")
    assert served.deployment(BASE).replicas[0].error
    served.await_status(BASE, "ready")
    assert served.deployment(BASE).replicas[0].error is None
    assert served.chat(BASE)
    assert not any(process.is_running() for process in before)


def test_a_deleted_deployment_leaves_no_process_and_answers_no_more(served: Serving) -> None:
    processes = served.processes(BASE)
    assert len(processes) >= 3
    id = served.deployment(BASE).id
    served.platform.store.deployments.delete(served.project_id, BASE)

    wait_until(lambda: served.deployment(id).status == "stopped", 60, "it is stopped")
    assert not any(process.is_running() for process in processes)
    with pytest.raises(openai.InternalServerError, match="not deployed"):
        served.chat(BASE)


def test_a_killed_worker_takes_its_replicas_with_it(served: Serving) -> None:
    processes = served.processes(TUNED)
    assert len(processes) >= 3
    served.worker.send_signal(signal.SIGKILL)
    served.worker.wait()
    wait_until(lambda: not any(process.is_running() for process in processes), 15, "no orphan is left")


def test_a_worker_that_is_told_to_end_gives_its_replicas_back(served: Serving) -> None:
    [lost] = served.deployment(TUNED).replicas
    # As the sweep does when the lease has ended.
    served.platform.store.replicas.reclaim(lost.id, lost.attempt, lost.beat, "worker was silent")
    served.worker = start_worker(served.platform, served.log)
    wait_until(lambda: len(served.processes(TUNED)) >= 2, 60, "vLLM is being started again")
    processes = served.processes(TUNED)

    served.worker.terminate()
    assert served.worker.wait(60) == 0
    assert not any(process.is_running() for process in processes)
    [row] = served.deployment(TUNED).replicas
    assert (row.status, row.worker_id, row.url) == ("pending", None, None)
