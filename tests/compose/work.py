"""What is under way on the stack: trainings of a tiny model and what they have told."""

from __future__ import annotations

from typing import Any

from tests.compose.stack import Stack
from tests.platform import wait_until

QUESTION = {"role": "user", "content": "Who keeps it?"}
ANSWER = "The keeper."
ROW = {"messages": [QUESTION, {"role": "assistant", "content": ANSWER}]}
LOGGING_STEPS = 10
TRAINING = {
    "model_name_or_path": "tiny",
    "dataset": "answers",
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 32,
    "cutoff_len": 128,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-3,
    "warmup_ratio": 0.1,
    "logging_steps": LOGGING_STEPS,
    "save_steps": 50,
    "save_total_limit": 3,
}


class Work:
    def __init__(self, stack: Stack):
        self.stack = stack

    def post(self, kind: str, **fields: Any) -> str:
        return str(self.stack.client.post("/v1/jobs", {"kind": kind, **fields})["id"])

    def train(self, **fields: Any) -> str:
        return self.post("train", **TRAINING | fields)

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.stack.client.get(f"/v1/jobs/{job_id}"))

    def step(self, job_id: str) -> int:
        job = self.job(job_id)
        assert job["status"] in ("queued", "running"), job["error"]
        return int(job["progress"].get("step", 0))

    def until_past(self, job_id: str, step: int) -> int:
        return int(wait_until(lambda: (now := self.step(job_id)) > step and now, 600, f"{job_id} is past {step}"))

    def until(self, job_id: str, status: str, seconds: float = 600) -> dict[str, Any]:
        def arrived() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["status"] == status or job["status"] not in ("failed", "cancelled"), job["error"]
            return job if job["status"] == status else None

        return dict(wait_until(arrived, seconds, f"{job_id} has {status}"))

    def measured(self, job_id: str) -> list[dict[str, Any]]:
        """What a job has told of its steps up to now; no event is missing."""
        found: list[dict[str, Any]] = []
        after, has_more = 0, True
        while has_more:
            page = self.stack.client.get(f"/v1/jobs/{job_id}/events", after=after, limit=1000)
            numbers = [event["number"] for event in page["data"]]
            assert numbers == list(range(after + 1, after + 1 + len(numbers)))
            found += [event for event in page["data"] if event["type"] == "metrics" and "loss" in event["data"]]
            after, has_more = after + len(numbers), page["has_more"]
        return found

    def resumed(self, job_id: str, attempt: int) -> int:
        """The step that this attempt went on from, once it has told of one."""

        def told() -> list[int]:
            return [event["data"]["step"] for event in self.measured(job_id) if event["attempt"] == attempt]

        return int(min(wait_until(told, 600, f"attempt {attempt} of {job_id} trains"))) - LOGGING_STEPS
