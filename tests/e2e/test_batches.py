"""OpenAI's batches through the official client: uploaded, asked of a replica, taken up after a kill, cancelled.

The replica is a real socket that answers as told; everything else is the real thing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types import Batch

from gateway import cli
from inference_worker.work import GenerateWork
from shared import schema
from shared.asking import CHAT
from shared.runner import Runner, Worker
from shared.settings import process_environment
from shared.spec import DeploySpec
from tests.platform import Platform, jsonl, make_platform, serve, wait_until
from tests.processes import command
from tests.unit.upstream import Upstream, serving

ROOT = Path(__file__).resolve().parents[2]
#: A worker of its own, so that it can be killed.
LOOK = """
from inference_worker.work import GenerateWork
from shared.artifact import ArtifactStore
from shared.runner import Runner, Worker
from shared.settings import process_environment
from shared.settings import Settings
from shared.store import Store
settings = Settings.from_env()
artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
worker = Worker(id="generate", works=[GenerateWork()], storage_id=artifacts.storage_id())
Runner(Store(settings.database_url), artifacts, settings, worker).look()
"""
pytestmark = pytest.mark.timeout(120)


def answer(text: str) -> tuple[int, bytes]:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "served", "choices": [message]}
    return 200, json.dumps(told | {"usage": usage}).encode()


@dataclass
class Bulk:
    platform: Platform
    client: openai.OpenAI
    upstream: Upstream
    #: Rows, by what they ask, are not answered before this is set.
    release: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    @property
    def project_id(self) -> str:
        return self.platform.store.projects.default().id

    def reply(self, body: dict[str, Any]) -> tuple[int, bytes]:
        text = body["messages"][-1]["content"]
        self.asked.append(text)
        if text.startswith("slow"):
            self.release.wait(30)
        if text.startswith("long"):
            return 400, json.dumps({"error": {"message": "too long", "code": 400}}).encode()
        return answer(text.upper())

    def deploy(self, model: str) -> None:
        """With one replica that is ready: the upstream."""
        store = self.platform.store
        spec = schema.to_wire(schema.load(DeploySpec, {"model": "tiny", "name": model, "max_num_seqs": 8}))
        store.deployments.create(self.project_id, name=model, model_name=model, spec=spec)
        claimed = store.replicas.claim_next("w")
        assert claimed is not None
        store.replicas.renew(
            claimed.id, claimed.attempt, status="ready", url=self.upstream.url, api_key="k", served_name="served"
        )

    def upload(self, *rows: dict[str, Any]) -> str:
        return self.client.files.create(file=("batch.jsonl", jsonl(list(rows))), purpose="batch").id

    def create(self, file: str, **more: Any) -> Batch:
        return self.client.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", **more
        )

    def runner(self, slots: int = 1) -> Runner:
        platform = self.platform
        worker = Worker(id="generate", works=[GenerateWork()], storage_id=platform.artifacts.storage_id(), slots=slots)
        return Runner(platform.store, platform.artifacts, platform.settings, worker)

    def work(self) -> None:
        """As the worker of the queue does when it is told to look."""
        self.runner().look()

    def lines(self, file: str | None) -> dict[str, dict[str, Any]]:
        assert file is not None
        read = self.client.files.content(file).text.splitlines()
        return {line["custom_id"]: line for line in map(json.loads, read)}


def row(custom_id: str, text: str, model: str = "smol", **body: Any) -> dict[str, Any]:
    asked = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


@pytest.fixture(scope="module")
def bulk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bulk]:
    platform = make_platform(tmp_path_factory.mktemp("batches"), renew_seconds=1.0)
    with serving(Upstream()) as upstream, serve(platform) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=platform.keys["user"], max_retries=0)
        made = Bulk(platform=platform, client=client, upstream=upstream)
        upstream.reply = made.reply
        for model in ("smol", "other"):
            made.deploy(model)
        yield made
        made.release.set()


@pytest.fixture(autouse=True)
def fresh(bulk: Bulk) -> None:
    bulk.release.clear()
    bulk.asked.clear()


def test_a_batch_is_answered_by_custom_id_with_what_failed_apart(bulk: Bulk) -> None:
    rows = [row(f"r{n}", f"say {n}", model=("smol", "other")[n % 2], temperature=0.1) for n in range(20)]
    made = bulk.create(bulk.upload(*rows, row("x", "long")), metadata={"team": "a"})
    assert (made.status, made.endpoint, made.metadata) == ("validating", CHAT, {"team": "a"})
    assert made.request_counts is not None and made.request_counts.total == 21
    assert made.expires_at == made.created_at + 86_400

    bulk.work()

    done = bulk.client.batches.retrieve(made.id)
    assert done.status == "completed", done.errors
    assert done.request_counts is not None and done.usage is not None
    assert done.request_counts.model_dump() == {"completed": 20, "failed": 1, "total": 21}
    assert (done.usage.input_tokens, done.usage.output_tokens) == (100, 40)
    answers, errors = bulk.lines(done.output_file_id), bulk.lines(done.error_file_id)
    told = {name: line["response"]["body"]["choices"][0]["message"]["content"] for name, line in answers.items()}
    assert told == {f"r{n}": f"SAY {n}" for n in range(20)}
    assert {line["response"]["body"]["model"] for line in answers.values()} == {"smol", "other"}
    assert errors["x"]["response"]["status_code"] == 400 and errors["x"]["error"]["message"] == "too long"
    sent = json.loads(bulk.upstream.requests[0]["body"])
    # Nothing but what the line says: the rest is for who answers to decide.
    assert sent == rows[0]["body"] | {"model": "served", "messages": sent["messages"]}
    assert [found.id for found in bulk.client.batches.list(limit=1)] == [made.id]
    assert bulk.client.files.retrieve(str(done.output_file_id)).purpose == "batch_output"
    # A deployment that only batches ask does not go to sleep.
    assert bulk.platform.store.deployments.get(bulk.project_id, "other").asked_at is not None


def test_after_kills_of_child_and_worker_no_answered_row_is_asked_again(bulk: Bulk) -> None:
    quick = [row(f"q{n}", f"quick {n}") for n in range(30)]
    slow = [row(f"s{n}", f"slow {n}") for n in range(6)]
    made = bulk.create(bulk.upload(*quick, *slow))
    store, settings = bulk.platform.store, bulk.platform.settings
    environment = process_environment("PATH", "HOME") | settings.environment()
    worker = psutil.Popen([sys.executable, "-c", LOOK], env=environment, cwd=ROOT)
    wait_until(lambda: len(bulk.asked) == 36, 40, "all are asked")
    time.sleep(0.3)  # the quick ones have come back
    the_child_of(worker).kill()
    wait_until(lambda: len(bulk.asked) == 42, 40, "the second attempt asks what is left")
    child = the_child_of(worker)
    worker.kill()
    worker.wait()
    wait_until(lambda: not child.is_running(), 20, "its keeper ends the child")
    store.attempts.reclaim(made.id, 2, None, "worker was silent")  # as the sweep does
    bulk.release.set()
    bulk.work()

    done = bulk.client.batches.retrieve(made.id)
    assert (done.status, done.error_file_id) == ("completed", None), done.errors
    assert set(bulk.lines(done.output_file_id)) == {line["custom_id"] for line in (*quick, *slow)}
    times = Counter(bulk.asked)
    assert {times[f"quick {n}"] for n in range(30)} == {1}
    assert {times[f"slow {n}"] for n in range(6)} == {3}
    assert [attempt.status for attempt in store.attempts.list(bulk.project_id, made.id)][1:] == ["lost", "succeeded"]


def the_child_of(worker: psutil.Process) -> psutil.Process:
    return next(process for process in worker.children(recursive=True) if _is_child(process))


def _is_child(process: psutil.Process) -> bool:
    return command(process)[1:] == ["-m", "inference_worker.child"]


def test_a_cancelled_batch_keeps_what_is_answered(bulk: Bulk) -> None:
    made = bulk.create(bulk.upload(*[row(f"q{n}", f"quick {n}") for n in range(5)], row("s", "slow")))
    worker = threading.Thread(target=bulk.work)
    worker.start()
    wait_until(lambda: len(bulk.asked) == 6, 30, "all are asked")
    time.sleep(0.3)
    assert bulk.client.batches.cancel(made.id).status == "cancelling"
    worker.join(30)

    done = bulk.client.batches.retrieve(made.id)
    assert (done.status, done.error_file_id) == ("cancelled", None)
    assert set(bulk.lines(done.output_file_id)) == {f"q{n}" for n in range(5)}
    assert bulk.client.batches.cancel(made.id).status == "cancelled"


def test_a_batch_that_is_cancelled_while_it_rests_keeps_its_answers_too(bulk: Bulk) -> None:
    made = bulk.create(bulk.upload(row("q", "quick"), row("s", "slow")))
    worker = threading.Thread(target=bulk.work)
    worker.start()
    wait_until(lambda: len(bulk.asked) == 2, 30, "all are asked")
    time.sleep(0.3)
    bulk.platform.post(f"/v1/jobs/{made.id}/pause")
    worker.join(30)
    assert bulk.platform.get(f"/v1/jobs/{made.id}").get_json()["status"] == "paused"

    assert bulk.client.batches.cancel(made.id).status == "cancelling"
    bulk.work()

    done = bulk.client.batches.retrieve(made.id)
    assert (done.status, set(bulk.lines(done.output_file_id))) == ("cancelled", {"q"})
    assert len(bulk.asked) == 2


def test_a_job_that_waits_for_its_model_holds_up_no_other(bulk: Bulk) -> None:
    bulk.platform.post("/v1/models", {"name": "later", "model_name_or_path": "tiny"})
    waits = bulk.create(bulk.upload(row("a", "x", model="later")))
    goes = bulk.create(bulk.upload(row("b", "x")))
    runner = bulk.runner(slots=2)
    threads = [threading.Thread(target=runner.look) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: bulk.client.batches.retrieve(goes.id).status == "completed", 30, "the other is through")
    assert bulk.client.batches.retrieve(waits.id).status == "in_progress"
    events = f"/v1/jobs/{waits.id}/events"
    said = "Waiting for a ready replica of 'later'"
    wait_until(lambda: said in bulk.platform.get(events).get_data(as_text=True), 30, "it says what it waits for")
    bulk.deploy("later")
    for thread in threads:
        thread.join(30)
    assert bulk.client.batches.retrieve(waits.id).status == "completed"


def test_the_command_line_brings_the_answers_beside_the_rows(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_URL", str(bulk.client.base_url).removesuffix("/v1/"))
    monkeypatch.setenv("TUNESMITH_API_KEY", bulk.platform.keys["user"])
    rows = tmp_path / "questions.csv"
    rows.write_text("instruction,input\nadd,1 2\nlong,\n")
    worker = threading.Thread(target=when_queued, args=(bulk,))
    worker.start()

    code = cli.main(["generate", str(rows), "--model", "smol", "--max-new-tokens", "5"])
    worker.join(30)

    said = capsys.readouterr().out
    assert (code, "1 answered, 1 failed" in said) == (0, True), said
    [line] = map(json.loads, (tmp_path / "questions.answers.jsonl").read_text().splitlines())
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "ADD\n1 2"
    assert "too long" in (tmp_path / "questions.errors.jsonl").read_text()
    assert json.loads(bulk.upstream.requests[-1]["body"])["max_tokens"] == 5


def when_queued(bulk: Bulk) -> None:
    wait_until(lambda: bulk.platform.store.jobs.list(bulk.project_id, status="queued").items, 20, "a job is queued")
    bulk.work()


def test_a_batch_without_one_answer_is_through_and_says_why_of_each_row(bulk: Bulk) -> None:
    made = bulk.create(bulk.upload(row("x", "long")))
    bulk.work()
    done = bulk.client.batches.retrieve(made.id)
    assert (done.status, done.output_file_id) == ("completed", None)
    assert list(bulk.lines(done.error_file_id)) == ["x"]


def test_what_cannot_be_asked_is_refused_at_the_door(bulk: Bulk) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=r"body\.temperature") as refused:
        bulk.upload(row("a", "x"), row("b", "x", temperature=9))
    assert isinstance(refused.value.body, dict)
    assert [issue["line"] for issue in refused.value.body["issues"]] == [2]
    with pytest.raises(openai.UnprocessableEntityError, match="did you mean 'smol'"):
        bulk.create(bulk.upload(row("a", "x"), row("b", "x", model="smoll")))
    file = bulk.upload(row("a", "x"))
    with pytest.raises(openai.UnprocessableEntityError, match="for /v1/chat/completions"):
        bulk.client.batches.create(input_file_id=file, endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.UnprocessableEntityError, match="completion_window"):
        bulk.client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="soon")  # type: ignore[arg-type]
    other = bulk.client.files.create(file=("a.txt", b"x"), purpose="user_data").id
    with pytest.raises(openai.UnprocessableEntityError, match="purpose batch"):
        bulk.create(other)
