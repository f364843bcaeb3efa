"""The main job on the real platform: `tunesmith up`, real training, export, vLLM, the openai client; then with faults.

The model is tiny and random: what it learns is one answer, by heart.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from gateway.cli.client import Client, follow, wait_deployment
from shared import interpreters
from shared.settings import Settings
from tests import monitoring
from tests.otlp import Collector, Span, collecting
from tests.platform import jsonl, wait_until
from tests.processes import command

#: On a busy machine vLLM takes minutes to start.
pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
PORT = 18930
ANSWER = "The keeper."
QUESTION = {"role": "user", "content": "Who keeps it?"}
ROW = {"messages": [QUESTION, {"role": "assistant", "content": ANSWER}]}
#: An LF file, short enough to learn one answer by heart in seconds.
TRAINING = """
model_name_or_path: tiny
dataset: answers
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 32
lora_target: all
cutoff_len: 128
per_device_train_batch_size: 8
learning_rate: 5.0e-3
num_train_epochs: {epochs}
lr_scheduler_type: cosine
warmup_ratio: 0.1
logging_steps: 5
save_steps: {save_steps}
seed: {seed}
"""
#: Greedy answers are the same every time; a model that knows none writes to the limit.
EVALUATION = {"kind": "evaluate", "eval_dataset": "answers", "predict_with_generate": True, "max_new_tokens": 24}
#: Leases short enough to watch them end.
ENVIRONMENT = {
    "TUNESMITH_LEASE_SECONDS": "10",
    "TUNESMITH_KEEPER_SECONDS": "6",
    "TUNESMITH_RENEW_SECONDS": "1",
    "TUNESMITH_SWEEP_SECONDS": "1",
    "TUNESMITH_HUB": "no",
    "TUNESMITH_PORT": str(PORT),
    "OMP_NUM_THREADS": "1",
}


class Running:
    """The platform and a client of it."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], collector: Collector):
        self.home, self.process, self.collector = home, process, collector
        key = json.loads((home / "client.json").read_text())["key"]
        self.client = Client(f"http://127.0.0.1:{PORT}", key)
        self.openai = openai.OpenAI(base_url=f"{self.client.url}/v1", api_key=key, max_retries=0)

    def train(self, *, epochs: int, seed: int, save_steps: int = 500, more: str = "") -> str:
        text = TRAINING.format(epochs=epochs, seed=seed, save_steps=save_steps) + more
        return str(self.client.post_yaml("/v1/jobs", text)["id"])

    def losses(self, job_id: str) -> dict[int, dict[int, float]]:
        """By attempt and step, also those that a later attempt did again; none counts twice."""
        told: dict[int, dict[int, float]] = {}
        kept = []
        for event in follow(self.client, job_id):
            if event["type"] == "metrics" and "loss" in event["data"]:
                told.setdefault(event["attempt"], {})[event["data"]["step"]] = event["data"]["loss"]
                kept += [] if event["superseded"] else [event["data"]["step"]]
        assert kept == sorted(set(kept)), "no step counts twice"
        return told

    def die_past_the_first_checkpoint(self, job_id: str, step: int) -> int:
        """Kill the worker, and with it all ranks, once `step` is done; of the checkpoints only the first stays whole:
        every step after it is done again. That step."""
        self.until_it_trains(job_id, step)
        self.service("celery", "trainer_worker.tasks").kill()
        wait_until(lambda: not self.children(job_id), 20, "the ranks are gone")
        first, *others = self.client.get(f"/v1/jobs/{job_id}/checkpoints")["data"]
        for other in others:
            attempt = self.home / "artifacts" / "jobs" / job_id / "attempts" / str(other["attempt"])
            shutil.rmtree(attempt / "checkpoints" / str(other["step"]) / "path")
        return int(first["step"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/jobs/{job_id}"))

    def until(self, job_id: str, status: str, seconds: float = 120) -> dict[str, Any]:
        def arrived() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["status"] == status or job["status"] not in ("failed", "cancelled"), job["error"]
            return job if job["status"] == status else None

        return dict(wait_until(arrived, seconds, f"{job_id} has {status}"))

    def until_it_trains(self, job_id: str, step: int = 1) -> None:
        wait_until(lambda: self.job(job_id)["progress"].get("step", 0) >= step, 120, f"{job_id} trains")

    def children(self, job_id: str) -> list[int]:
        """Processes that work in the job's folders, wherever they hang."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(job_id in part for part in process.info["cmdline"] or ()):
                found.append(process.info["pid"])
        return found

    def service(self, *words: str) -> psutil.Process:
        """The process of one service, by words of its command line; not its keeper."""
        lines = {process: command(process) for process in psutil.Process(self.process.pid).children(recursive=True)}
        return next(p for p, line in lines.items() if set(words) <= set(line) and "keeper.py" not in " ".join(line))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("main") / "home"
    make_model(home / "import" / "tiny")
    out = home / "up.txt"
    with out.open("wb") as stream:
        env = os.environ | ENVIRONMENT | {"TUNESMITH_HOME": str(home), "TUNESMITH_OTLP_ENDPOINT": collector.url}
        command = [sys.executable, "-m", "gateway.cli", "up"]
        process = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until(lambda: "is ready" in out.read_text() or process.poll() is not None, 120, "the platform is ready")
        running = Running(home, process, collector)
        running.client.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
        path = home / "answers.jsonl"
        path.write_bytes(jsonl([ROW] * 32))
        running.client.upload("/v1/datasets", path, {"name": "answers"})
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


@pytest.fixture(scope="module", autouse=True)
def prometheus(running: Running) -> Iterator[monitoring.Prometheus | None]:
    """Scrapes all that happens in this file, by the configuration that the platform wrote; None where there is none."""
    if not monitoring.is_installed():
        yield None
        return
    with monitoring.prometheus(running.home / "prometheus" / "prometheus.yml", running.home / "scraped") as started:
        yield started


def make_model(folder: Path) -> None:
    """By the trainer's Python: this one has no torch."""
    code = (
        "import sys; from pathlib import Path; from tests.child.export_fixtures import llama; "
        "llama(Path(sys.argv[1]), hidden_size=128, intermediate_size=256, max_position_embeddings=1024)"
    )
    python = interpreters.trainer(Settings())
    subprocess.run([python, "-c", code, str(folder)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def test_a_model_is_trained_exported_served_and_says_what_it_was_taught(running: Running) -> None:
    more = f"then: {json.dumps([EVALUATION])}\neval_dataset: answers\neval_strategy: steps\neval_steps: 80\n"
    job_id = running.train(epochs=40, seed=1, more=more)
    events = list(follow(running.client, job_id))
    losses = [event["data"]["loss"] for event in events if event["type"] == "metrics" and "loss" in event["data"]]
    assert events[-1]["type"] == "done", events[-1]
    assert running.job(job_id)["status"] == "succeeded", running.job(job_id)["error"]
    assert losses[-1] < 0.1 < losses[0]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    adapter = running.job(job_id)["model"]
    check_evaluation(running, adapter)
    merged = export(running, adapter, export_verify_vllm="require")
    quantized = export(running, adapter, export_quantization_bit=4, export_verify_vllm="off")
    assert [running.client.get(f"/v1/models/{name}")["kind"] for name in (adapter, merged, quantized)] == [
        "adapter",
        "merged",
        "quantized",
    ]
    body = {"model": merged, "max_model_len": 256, "enforce_eager": True}
    deployment = running.client.post("/v1/deployments", body)
    ready = wait_deployment(running.client, deployment["id"])
    assert ready["status"] == "ready", ready
    assert answers(running, merged) == [ANSWER, ANSWER]
    time.sleep(2)  # Prometheus has seen that one: a rate is the difference of two looks.
    assert answers(running, merged) == [ANSWER, ANSWER]
    assert running.job(job_id)["result"]["num_tokens"] > 0
    wait_until(lambda: answered(running.collector), 60, "vLLM has told of answers")
    running.client.delete(f"/v1/deployments/{deployment['id']}")
    wait_until(lambda: running.client.get("/v1/deployments")["data"] == [], 60, "the replica is gone")
    check_trace(running, job_id)


def answered(collector: Collector) -> bool:
    """Whether spans of answers go from the gateway through its request to a replica down to vLLM's own."""
    spans = {span.span_id: span for span in collector.spans}
    asked = {span.span_id for span in spans.values() if span.name == "POST /v1/chat/completions"}
    passed = {span.span_id for span in spans.values() if span.name == "replica" and span.parent in asked}
    return len([span for span in spans.values() if span.name == "llm_request" and span.parent in passed]) >= 2


def told(collector: Collector, trace_id: str) -> list[Span]:
    """The trace, once its two attempts are there, which end after all that belongs to them."""
    spans = collector.trace(trace_id)
    return spans if [span.name for span in spans].count("attempt") == 2 else []


def check_trace(running: Running, job_id: str) -> None:
    """The request, the training and what followed it: one trace, and one id in every log."""
    job = running.job(job_id)
    first, *others = wait_until(lambda: told(running.collector, job["trace_id"]), 10, "both attempts have been told of")
    assert (first.name, first.attributes["request_id"]) == ("POST /v1/jobs", job["request_id"])
    assert {span.parent for span in others} <= {span.span_id for span in (first, *others)}
    attempts = [span for span in others if span.name == "attempt"]
    assert [span.attributes["job_kind"] for span in attempts] == ["train", "evaluate"]
    assert {span.attributes["status"] for span in attempts} == {"succeeded"}
    assert {"enqueue", "claim", "inputs", "prepare", "train", "publish"} <= {span.name for span in others}
    attempt = running.home / "run" / "jobs" / job_id / "attempts" / "1"
    for path in (*(running.home / "logs" / f"{name}.log" for name in ("gateway", "train")), attempt / "run.json"):
        assert job["request_id"] in path.read_text()
    assert job["request_id"] in (attempt / "logs" / "rank0.log").read_text()


def check_evaluation(running: Running, adapter: str) -> None:
    """What followed the training measured that it answers as it was taught."""
    follower = running.client.get("/v1/jobs", kind="evaluate", limit=1)["data"][0]
    done = running.until(follower["id"], "succeeded", 240)
    (found,) = running.client.get(f"/v1/models/{adapter}")["evaluations"]
    assert (found["dataset"], found["num_samples"], found["job_id"]) == ("answers", 32, follower["id"])
    assert found["metrics"]["exact_match"] == 1 and found["metrics"]["perplexity"] < 1.2
    text = httpx.get(
        f"{running.client.url}/v1/files/{done['result']['by_dataset']['answers']['predictions']}/content",
        headers={"Authorization": f"Bearer {running.openai.api_key}"},
    ).text
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 32 and {line["predict"] for line in lines} == {line["label"] for line in lines} == {ANSWER}
    assert QUESTION["content"] in lines[0]["prompt"]


def export(running: Running, adapter: str, **fields: Any) -> str:
    job = running.client.post("/v1/jobs", {"kind": "export", "model_name_or_path": adapter, **fields})
    done = running.until(job["id"], "succeeded", 480)
    return str(done["model"])


def answers(running: Running, model: str) -> list[str]:
    """In one piece and as a stream."""
    ask: dict[str, Any] = {"model": model, "messages": [QUESTION], "temperature": 0, "max_tokens": 32}
    whole = running.openai.chat.completions.create(**ask)
    pieces = running.openai.chat.completions.create(**ask, stream=True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    return [str(whole.choices[0].message.content), streamed]


def test_training_shows_in_the_workers_metrics_while_it_runs(running: Running) -> None:
    job_id = running.train(epochs=4000, seed=2)
    running.until_it_trains(job_id, step=5)
    text = "".join(httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in range(PORT + 1, PORT + 6))
    assert f'tunesmith_training_loss{{job_id="{job_id}",' in text
    # Cancelled in mid-training: the child is gone within 10 s.
    began = time.monotonic()
    running.client.post(f"/v1/jobs/{job_id}/cancel")
    running.until(job_id, "cancelled", 10)
    wait_until(lambda: not running.children(job_id), 10 - (time.monotonic() - began), "no process is left")


def test_a_killed_worker_loses_no_job_and_no_step(running: Running) -> None:
    """Dropout and the order of the data go on where they were."""
    more = "lora_dropout: 0.1\nsave_total_limit: 3\n"
    job_id = running.train(epochs=150, seed=3, save_steps=50, more=more)
    first = running.die_past_the_first_checkpoint(job_id, step=80)
    running.until(job_id, "succeeded", 150)
    *before, after = running.losses(job_id).values()
    again = {step: loss for losses in before for step, loss in losses.items() if step > first}
    assert len(again) >= 6 and {step: after[step] for step in again} == pytest.approx(again, abs=1e-4)
    assert min(after) == first + 5 and max(after) == 600
    assert [one["step"] for one in running.client.get(f"/v1/jobs/{job_id}/checkpoints")["data"]] == [500, 550, 600]
    assert not running.children(job_id)


@pytest.mark.slow
def test_two_ranks_that_die_with_their_worker_go_on_as_if_nothing_was(running: Running) -> None:
    lines = (line for line in TRAINING.splitlines() if not line.startswith(("per_device", "logging")))
    text = "\n".join(lines).format(epochs=9, seed=6, save_steps=10)
    more = "zero_stage: 3\nnum_processes: 2\nper_device_train_batch_size: 2\nlora_dropout: 0.1\nmax_steps: 60\n"
    job_id = str(running.client.post_yaml("/v1/jobs", f"{text}\n{more}logging_steps: 1\n")["id"])
    first = running.die_past_the_first_checkpoint(job_id, step=27)
    running.until(job_id, "succeeded", 150)
    *before, after = running.losses(job_id).values()
    again = {step: loss for losses in before for step, loss in losses.items() if step > first}
    assert first == 10 and len(again) >= 10
    assert {step: after[step] for step in again} == pytest.approx(again, abs=1e-4)
    assert list(after) == list(range(11, 61))


@pytest.mark.slow
def test_an_evaluation_whose_worker_is_killed_is_done_again_and_counts_once(running: Running) -> None:
    body = EVALUATION | {"model": "tiny", "max_new_tokens": 64, "per_device_eval_batch_size": 1}
    job_id = str(running.client.post("/v1/jobs", body)["id"])
    wait_until(lambda: running.job(job_id)["progress"].get("unit") == "samples", 120, f"{job_id} measures")
    running.service("celery", "trainer_worker.tasks").kill()
    done = running.until(job_id, "succeeded", 150)
    assert done["attempt"] == 2
    (found,) = running.client.get("/v1/evaluations", dataset="answers", model="tiny")["data"]
    assert (found["job_id"], found["num_samples"]) == (job_id, 32)
    assert found["metrics"]["exact_match"] == 0 and found["metrics"]["share_unfinished"] > 0
    assert not running.children(job_id)


@pytest.mark.slow
def test_a_broker_that_forgets_everything_loses_no_job(running: Running) -> None:
    first = running.train(epochs=100, seed=4)
    running.until_it_trains(first)
    second = running.train(epochs=2, seed=5)
    below = psutil.Process(running.process.pid).children(recursive=True)
    broker = next(process for process in below if process.name().startswith(("redis-server", "valkey-server")))
    for kept in (running.home / "broker").glob("append*"):
        shutil.rmtree(kept)
    broker.kill()
    assert running.until(first, "succeeded")["attempt"] == 1
    running.until(second, "succeeded")


def test_every_panel_and_every_rule_found_its_data_in_what_was_scraped(
    prometheus: monitoring.Prometheus | None,
) -> None:
    """The last one: by now everything has happened that there is to show."""
    if prometheus is None:
        pytest.skip("Prometheus is not installed (Debian: apt-get install prometheus)")
    assert not monitoring.failed_rules(prometheus)
    lacking = monitoring.unanswered(prometheus)
    assert not lacking, "\n".join(f"{name}: {expr}" for name, expr in lacking.items())
