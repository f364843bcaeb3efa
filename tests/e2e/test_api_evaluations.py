"""Evaluations at the door, what LF's files mean by them, and their results through the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.job import Kind, Status
from shared.records import NewEvaluation
from tests.lf_examples import posting
from tests.platform import Platform, jsonl, make_platform

SMALL = {"kind": "evaluate", "model": "whole", "eval_dataset": "identity"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return posting.furnished(tmp_path_factory.mktemp("evaluations"))


def issues(platform: Platform, body: dict[str, Any]) -> dict[str, str]:
    answer = platform.post("/v1/jobs", body)
    assert answer.status_code == 422, answer.get_json()
    return {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ({"metrics": ["perplexty"]}, "metrics", "did you mean 'perplexity'"),
        ({"eval_dataset": "identty"}, "eval_dataset", "'identity'"),
        ({"eval_dataset": "dpo_en_demo"}, "eval_dataset", "stage"),
        ({"eval_dataset": []}, "eval_dataset", "name a dataset, or tasks"),
        ({"eval_dataset": "identity,identity"}, "eval_dataset", "twice"),
        ({"model": "nobody"}, "model_name_or_path", "no model 'nobody'"),
        ({"model": "scorer"}, "model_name_or_path", "reward model"),
        ({"stage": "rm", "eval_dataset": "dpo_en_demo", "model": "tiny"}, "model_name_or_path", "gives no scores"),
        ({"adapter_name_or_path": "ft:saves/llama3-8b/lora/sft"}, "adapter_name_or_path", "Meta-Llama-3-8B"),
        ({"adapter_name_or_path": "small"}, "adapter_name_or_path", "must be an adapter"),
        ({"stage": "pt", "eval_dataset": "c4_demo", "predict_with_generate": True}, "predict_with_generate", "pt"),
        ({"num_beems": 2}, "num_beems", "num_beams"),
        ({"do_train": True}, "do_train", "trains nothing"),
        ({"val_size": 0.1}, "val_size", "not of this kind"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_what_could_be(
    platform: Platform, body: dict[str, Any], field: str, part: str
) -> None:
    if "scores" in part:
        (platform.settings.import_roots[0] / "tiny" / "config.json").write_text(
            '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
        )
    assert part in issues(platform, SMALL | body)[field]


def test_without_the_hub_only_tasks_of_the_administrators_folder_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "a.yaml").write_text("task: capitals\ndataset_path: json\n")
    (folder / "b.yaml").write_text("group: everything\ntask:\n  - capitals\n")
    platform = make_platform(tmp_path / "home", eval_tasks_dir=str(folder))
    body = {"kind": "evaluate", "model": "tiny", "tasks": ["capitals", "everything"]}

    job = platform.post("/v1/jobs", body)
    assert job.status_code == 201, job.get_json()
    assert job.get_json()["requires"] == {"num_devices": 1}
    wrong = issues(platform, body | {"tasks": ["capitels"]})["tasks"]
    assert "did you mean 'capitals'" in wrong and "has 2 tasks" in wrong


def test_a_file_of_lf_that_predicts_is_an_evaluation_and_what_only_trains_is_told(platform: Platform) -> None:
    made = platform.post(
        "/v1/jobs",
        {
            "model_name_or_path": "tiny", "eval_dataset": "identity", "stage": "sft", "do_predict": True,
            "predict_with_generate": True, "finetuning_type": "lora", "learning_rate": 1e-4, "bf16": True,
            "temperature": 0.5, "output_dir": "saves/predict", "max_new_tokens": 64,
        },
    ).get_json()  # fmt: skip
    assert made["kind"] == "evaluate", made
    spec = made["spec"]
    assert spec["metrics"] == ["loss", "perplexity", "accuracy", "bleu", "rouge", "exact_match"]
    assert (spec["infer_dtype"], spec["max_new_tokens"], spec["do_sample"]) == ("bfloat16", 64, False)
    events = platform.get(f"/v1/jobs/{made['id']}/events?limit=100").get_json()["data"]
    told = {event["data"].get("field"): event["message"] for event in events if event["type"] == "finding"}
    assert "when a model is trained" in told["learning_rate"] and "do_sample true" in told["temperature"]
    assert not told.keys() & {"finetuning_type", "bf16", "output_dir"}


def test_a_training_that_predicts_is_followed_by_its_evaluation(platform: Platform) -> None:
    training = {"model": "tiny", "dataset": "identity", "eval_dataset": "alpaca_en_demo", "cutoff_len": 512}
    predicts = {"do_train": True, "predict_with_generate": True, "num_beams": 2, "max_new_tokens": 32}
    made = platform.post("/v1/jobs", {**training, **predicts}).get_json()
    left_out = platform.post("/v1/jobs", {**training, "then": [{"kind": "evaluate"}]}).get_json()

    assert made["kind"] == left_out["kind"] == "train"
    for job, generates in ((made, True), (left_out, False)):
        (entry,) = job["then"]
        spec = entry["spec"]
        assert (entry["kind"], spec["model_name_or_path"], spec["eval_dataset"]) == (
            "evaluate", "$model", ["alpaca_en_demo"],
        )  # fmt: skip
        assert (spec["cutoff_len"], spec["predict_with_generate"]) == (512, generates)
    assert made["then"][0]["spec"]["num_beams"] == 2
    nothing = {"model": "tiny", "dataset": "identity", "then": [{"kind": "evaluate"}]}
    assert "name a dataset" in issues(platform, nothing)["then[0].eval_dataset"]


def test_results_are_on_the_model_and_compare_on_a_dataset(platform: Platform) -> None:
    store = platform.store
    project = store.projects.default().id
    record = store.models.get(project, "whole")
    for name, model_id, loss in (("whole", record.id, 1.0), ("whole", "model-before", 2.0), ("tiny", None, 3.0)):
        job, _ = store.jobs.create(project, kind=Kind.EVALUATE, spec={"schema_version": 3}, priority=1000)
        claim = store.attempts.claim_next(worker_id="w", kinds=[Kind.EVALUATE], num_devices=1)
        assert claim is not None and claim.job.id == job.id
        measured = NewEvaluation(
            model_name=name, model_id=model_id, dataset="identity", dataset_digest="d", num_samples=20,
            metrics={"eval_loss": loss}, spec={},
        )  # fmt: skip
        store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, evaluations=[measured])

    (own,) = platform.get("/v1/models/whole").get_json()["evaluations"]
    assert (own["metrics"], own["num_samples"], own["dataset_digest"]) == ({"eval_loss": 1.0}, 20, "d")
    compared = platform.get("/v1/evaluations?dataset=identity&limit=2").get_json()
    assert [one["model"] for one in compared["data"]] == ["tiny", "whole"] and compared["has_more"]
    last = platform.get(f"/v1/evaluations?dataset=identity&after={compared['last_id']}").get_json()["data"]
    assert [one["metrics"]["eval_loss"] for one in last] == [1.0]
    assert platform.get("/v1/evaluations?limit=0").status_code == 422
    assert platform.get("/v1/evaluations", role="viewer").status_code == 200


def keep(platform: Platform, name: str, *, losses: list[float], digest: str = "same", label: str = "4") -> str:
    """The result of an evaluation with its files; its id."""
    store, project = platform.store, platform.store.projects.default().id
    scores = [{"sample": n, "loss": loss, "num_tokens": 2, "num_right": n % 3} for n, loss in enumerate(losses)]
    answers = [{"prompt": "Twice 2?", "predict": "4" if loss < 1 else "5", "label": label} for loss in losses]
    files = {}
    for what, lines in (("scores", scores), ("predictions", answers)):
        path = platform.settings.home / f"{name}.{what}"
        path.write_bytes(jsonl(lines))
        made = platform.artifacts.put_file(path, platform.artifacts.uri("tests", name, what))
        sealing = {"size_bytes": made.size_bytes, "digest": made.digest, "uri": made.uri, "format": None, "columns": {}}
        record = store.datasets.create(
            project, name=path.name, filename=path.name, purpose="evaluate_output", num_rows=len(lines), **sealing
        )
        files[what] = record.id
    job, _ = store.jobs.create(project, kind=Kind.EVALUATE, spec={"schema_version": 3}, priority=1000)
    store.attempts.claim_next(worker_id="w", kinds=[Kind.EVALUATE], num_devices=1)
    measured = NewEvaluation(
        model_name=name, dataset="facts", dataset_digest=digest, num_samples=len(losses), metrics={}, spec={}
    )
    result = {"by_dataset": {"facts": files}}
    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, result=result, evaluations=[measured])
    return store.evaluations.list(project, model=name).items[0].id


def test_two_models_are_compared_sample_by_sample(platform: Platform) -> None:
    first = keep(platform, "after", losses=[0.5, 2.0, 3.0, 0.9])
    second = keep(platform, "before", losses=[1.5, 3.0, 4.2, 1.7])
    found = platform.get(f"/v1/evaluations/{first}/difference?less={second}").get_json()
    assert (found["model"], found["less_model"]) == ("after", "before")
    metrics = found["metrics"]
    # (-1 - 1 - 1.2 - 0.8) / 8 tokens; the errors of the two numbers by themselves are more than ten times as large.
    assert metrics["eval_loss"] == pytest.approx(-0.5)
    assert metrics["eval_loss_stderr"] == pytest.approx((4 / 3 * (0.2**2 + 0.2**2)) ** 0.5 / 8)
    assert (metrics["exact_match"], metrics["eval_accuracy"]) == (0.5, 0)
    assert platform.get(f"/v1/evaluations/{first}").get_json()["model"] == "after"
    other = keep(platform, "elsewhere", losses=[1.0], digest="other")
    wrong = platform.get(f"/v1/evaluations/{first}/difference?less={other}")
    assert (wrong.status_code, wrong.get_json()["error"]["code"]) == (422, "not_comparable")
    fewer = keep(platform, "fewer", losses=[1.0])
    assert platform.get(f"/v1/evaluations/{first}/difference?less={fewer}").status_code == 422
    assert platform.get(f"/v1/evaluations/{first}/difference").status_code == 404
