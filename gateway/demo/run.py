"""The steps of the demo, each one call of the HTTP API followed to its end.

Records that an earlier demo left (base model, dataset) are used again; the training is always a new job.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from openai import OpenAI

from gateway.cli import show
from gateway.cli.client import Client, follow, wait_deployment
from gateway.cli.watch import Follower, make_progress
from gateway.demo import base, questions
from gateway.demo.screen import Answers, Screen
from shared.errors import TunesmithError

HERE = Path(__file__).resolve().parent
DATASET = "tunesmith-facts"
#: Events shown here; the rest is for `tunesmith watch`.
DRAWN = frozenset({"phase", "metrics", "progress"})
#: Short conversations on a small machine: a small cache and no compilation start sooner.
DEPLOYMENT = {"max_model_len": 1024, "enforce_eager": True}


class DemoFailed(TunesmithError):
    """A step of the demo did not end as it must."""


@dataclass(kw_only=True)
class Demo:
    client: Client
    screen: Screen
    #: Ids of the deployments that this run made.
    deployments: list[str] = field(default_factory=list)

    def add_base(self) -> None:
        with self.screen.step("register", "the base model") as step:
            known = {model["id"]: model for model in self.client.get("/v1/models")["data"]}
            body = {"name": base.NAME, "model_name_or_path": base.NAME}
            model = known.get(base.NAME) or self.client.post("/v1/models", body)
            step.outcome = f"POST /v1/models: {model['id']}, {show.size(model['size_bytes'])}"

    def upload(self) -> None:
        with self.screen.step("upload", "the dataset") as step:
            data = self.client.upload("/v1/datasets", HERE / "facts.jsonl", {"name": DATASET})
            step.outcome = f"POST /v1/datasets: {data['num_rows']} rows, {data['format']}"

    def train(self) -> str:
        """Post train.yaml; the name of the adapter. Raises DemoFailed when the loss did not fall."""
        with self.screen.step("train") as step:
            job = self.client.post_yaml("/v1/jobs", (HERE / "train.yaml").read_text())
            done, losses = self._follow(job, "train")
            first, last = losses[0][1], losses[-1][1]
            if not last < first:
                raise DemoFailed(f"the loss did not fall: {first:.3f} at first, {last:.3f} at last")
            step.outcome = f"POST /v1/jobs: {losses[-1][0]} steps, loss {first:.2f} -> {last:.2f}"
        return str(done["result"]["model"])

    def export(self, adapter: str, title: str, **fields: Any) -> str:
        with self.screen.step(title) as step:
            job = self.client.post("/v1/jobs", {"kind": "export", "model_name_or_path": adapter, **fields})
            done, _ = self._follow(job, title)
            step.outcome = f"POST /v1/jobs: {done['result']['format']}, {show.size(done['result'].get('size_bytes'))}"
        return str(done["result"]["model"])

    def deploy(self, models: Sequence[str]) -> None:
        with self.screen.step("deploy", f"{len(models)} models on vLLM, this takes a minute") as step:
            there = {item["name"]: item for item in self.client.get("/v1/deployments")["data"]}
            made = [self.client.post("/v1/deployments", {"model": n, **DEPLOYMENT}) for n in models if n not in there]
            self.deployments += [item["id"] for item in made]
            for item in [*made, *(there[name] for name in models if name in there)]:
                end = wait_deployment(self.client, item["id"])
                if end["status"] != "ready":
                    raise DemoFailed(f"deployment of {end['model']} is {end['status']}: {end.get('error')}")
            step.outcome = f"POST /v1/deployments: {len(models)} models ready on vLLM"

    def ask(self, models: Sequence[str], headings: Sequence[str]) -> list[list[str]]:
        """The answers of each model, asked at the same time."""
        with self.screen.step("ask") as step:
            openai = OpenAI(base_url=f"{self.client.url}/v1", api_key=self.client.key, timeout=120.0)
            answers = Answers(self.screen.console, headings)
            with answers.live(), ThreadPoolExecutor(len(models)) as pool:
                asked = [pool.submit(_ask_all, openai, model, answers, column) for column, model in enumerate(models)]
                for one in asked:
                    one.result()
            step.outcome = "POST /v1/chat/completions: the same questions to each, by the openai client"
        return answers.texts

    def remove_deployments(self) -> None:
        """So that the next start of the platform does not bring them up again."""
        for deployment_id in self.deployments:
            self.client.delete(f"/v1/deployments/{deployment_id}")

    def _follow(self, job: dict[str, Any], title: str) -> tuple[dict[str, Any], list[tuple[int, float]]]:
        try:
            with make_progress(self.screen.console) as progress:
                follower = Follower(progress, title)
                for event in follow(self.client, job["id"]):
                    if event["type"] in DRAWN:
                        follower.show(event)
        except KeyboardInterrupt:
            # Who leaves the demo does not want its job to go on at the next start.
            self.client.post(f"/v1/jobs/{job['id']}/cancel")
            raise
        done = dict(self.client.get(f"/v1/jobs/{job['id']}"))
        if done["status"] != "succeeded":
            raise DemoFailed(f"{title}: {done['id']} is {done['status']}: {(done.get('error') or {}).get('message')}")
        return done, follower.losses


def _ask_all(openai: OpenAI, model: str, answers: Answers, column: int) -> None:
    for row, question in enumerate(questions.QUESTIONS):
        questions.ask(openai, model, question, partial(answers.put, column, row))
