"""The main job on compose.yaml with vLLM: train, export, deploy, ask; each worker is killed in the middle of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.cli.client import wait_deployment
from tests.compose.stack import Stack
from tests.compose.work import ANSWER, QUESTION, ROW, Work
from tests.platform import jsonl, wait_until

# The first test waits for all images to be built.
pytestmark = [pytest.mark.timeout(7200), pytest.mark.slow]
SERVING = {"max_model_len": 256, "enforce_eager": True}
#: Enough to be in the middle of when a container is killed.
NUM_ROWS = 4000


@pytest.fixture(scope="module")
def merged(stack: Stack, work: Work) -> str:
    """A model that was taught one answer; the export's container died in the middle of it."""
    adapter = work.until(work.train(num_train_epochs=40, seed=1), "succeeded")["model"]
    job_id = work.post("export", model_name_or_path=adapter)
    work.until(job_id, "running")
    stack.kill("export")
    done = work.until(job_id, "succeeded", 900)
    assert done["attempt"] == 2
    return str(done["model"])


@pytest.fixture(scope="module")
def deployment(stack: Stack, merged: str) -> str:
    made = stack.client.post("/v1/deployments", {"model": merged, "name": "support", **SERVING})
    ready = wait_deployment(stack.client, made["id"])
    assert ready["status"] == "ready", ready
    return str(made["id"])


def test_the_trained_model_says_what_it_was_taught(stack: Stack, deployment: str) -> None:
    assert answers(stack) == [ANSWER, ANSWER]


def test_a_killed_inference_container_answers_again(stack: Stack, deployment: str) -> None:
    (before,) = stack.client.get(f"/v1/deployments/{deployment}")["replicas"]
    stack.kill("inference")

    def is_another_ready() -> bool:
        now = stack.client.get(f"/v1/deployments/{deployment}")
        times = [replica["ready_at"] for replica in now["replicas"]]
        return now["status"] == "ready" and times not in ([None], [before["ready_at"]])

    wait_until(is_another_ready, 900, "the deployment is ready again")
    assert answers(stack) == [ANSWER, ANSWER]


def test_bulk_generation_goes_on_after_its_container_died(
    stack: Stack, work: Work, deployment: str, tmp_path: Path
) -> None:
    rows = tmp_path / "questions.jsonl"
    rows.write_bytes(jsonl([ROW] * NUM_ROWS))
    stack.client.upload("/v1/datasets", rows, {"name": "questions"})
    job_id = work.post("generate", model="support", dataset="questions", max_new_tokens=16, temperature=0)
    wait_until(lambda: 0 < work.job(job_id)["progress"].get("done", 0) < NUM_ROWS, 600, "some rows are answered")
    stack.kill("generate")
    done = work.until(job_id, "succeeded", 900)
    assert done["attempt"] == 2
    assert (done["result"]["num_rows"], done["result"]["num_failed"]) == (NUM_ROWS, 0)


def test_deployment_and_answers_survive_down_and_up(stack: Stack, deployment: str) -> None:
    codes = stack.stop()
    assert set(codes.values()) == {0}, codes
    stack.down()
    stack.up()

    def is_ready() -> bool:
        return bool(stack.client.get(f"/v1/deployments/{deployment}")["status"] == "ready")

    wait_until(is_ready, 900, "the deployment is ready again")
    assert answers(stack) == [ANSWER, ANSWER]


def answers(stack: Stack) -> list[str]:
    """By curl's way and as a stream of the openai client."""
    asked: dict[str, Any] = {"model": "support", "messages": [QUESTION], "temperature": 0, "max_tokens": 32}
    headers = {"Authorization": f"Bearer {stack.client.key}"}
    whole = httpx.post(f"{stack.client.url}/v1/chat/completions", json=asked, headers=headers, timeout=60)
    client = openai.OpenAI(base_url=f"{stack.client.url}/v1", api_key=stack.client.key, max_retries=0)
    pieces = client.chat.completions.create(**asked, stream=True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    return [json.loads(whole.text)["choices"][0]["message"]["content"], streamed]
