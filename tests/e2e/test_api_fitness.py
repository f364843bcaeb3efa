"""What the door knows of models and datasets beside that they exist: what fits a job, and what is worth a remark."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import fitness
from gateway.services import NAME
from shared import schema
from shared.artifact import ArtifactStore
from shared.records import NewModel
from shared.spec import TrainSpec
from tests.platform import ROWS, Platform, jsonl, make_platform

GOOD: dict[str, Any] = {"model_name_or_path": "base", "dataset": "sums", "stage": "sft"}
RM: dict[str, Any] = {"model_name_or_path": "base", "dataset": "pair", "stage": "rm"}
EXPORT: dict[str, Any] = {"kind": "export"}
#: A row of each kind that is no plain conversation.
OTHER_ROWS: dict[str, Any] = {
    "pair": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "labelled": {"prompt": "a", "completion": "b", "label": True},
    "text": {"text": "a"},
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("fitness"))
    root = made.settings.import_roots[0]
    tokens = [{"content": "<|im_start|>"}, {"content": "<|im_end|>"}]
    (root / "tiny" / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    (root / "own").mkdir()
    for path in (root / "tiny").iterdir():
        (root / "own" / path.name).write_bytes(path.read_bytes())
    (root / "own" / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    (root / "unknown").mkdir()
    for path in (root / "tiny").iterdir():
        (root / "unknown" / path.name).write_bytes(path.read_bytes())
    (root / "unknown" / "config.json").write_text('{"model_type": "opt", "architectures": ["OPTForCausalLM"]}')
    for name, folder in (("base", "tiny"), ("other", "tiny"), ("own-code", "own"), ("odd", "unknown")):
        assert made.post("/v1/models", {"name": name, "model_name_or_path": folder}).status_code == 201
    for name, kind, base in (("ft", "adapter", "base"), ("small", "quantized", "base"), ("whole", "merged", "base")):
        files: dict[str, Any] = {"uri": "store://m", "digest": "d", "size_bytes": 1, "format": "safetensors"}
        made.store.models.create(
            made.store.projects.default().id, NewModel(name=name, kind=kind, base_model=base, **files)
        )
    for name, kind in (("judge", "adapter"), ("whole-judge", "merged")):
        made.store.models.create(
            made.store.projects.default().id,
            NewModel(name=name, kind=kind, base_model="base", config={"stage": "rm"}, **files),
        )
    for name, purpose in (("sums", "fine-tune"), ("checks", "evals"), ("notes", "user_data")):
        assert upload(made, name, ROWS, purpose)["kind"] == ("messages" if purpose != "user_data" else None)
    for kind, row in OTHER_ROWS.items():
        assert upload(made, kind, [row])["kind"] == kind
    return made


def upload(platform: Platform, name: str, rows: list[Any], purpose: str = "fine-tune") -> dict[str, Any]:
    data = {"file": (io.BytesIO(jsonl(rows)), f"{name}.jsonl"), "purpose": purpose}
    answer = platform.client.post("/v1/datasets", data=data, headers=platform.headers())
    assert answer.status_code == 201, answer.get_json()
    return dict(answer.get_json())


def findings(platform: Platform, body: dict[str, Any]) -> dict[str, str]:
    """Messages of the warnings by field."""
    answer = platform.post("/v1/jobs", body)
    assert answer.status_code == 201, answer.get_json()
    events = platform.get(f"/v1/jobs/{answer.get_json()['id']}/events").get_json()["data"]
    return {event["data"]["field"]: event["message"] for event in events if event["level"] == "warning"}


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (GOOD | {"dataset": "notes"}, "dataset", "user_data"),
        (GOOD | {"dataset": ["sums", "checks"]}, "dataset", "evals"),
        (GOOD | {"eval_dataset": "notes"}, "eval_dataset", "fine-tune or evals"),
        (GOOD | {"model_name_or_path": "small"}, "model_name_or_path", "quantized"),
        (GOOD | {"adapter_name_or_path": "whole"}, "adapter_name_or_path", "must be an adapter"),
        (GOOD | {"model_name_or_path": "ft", "adapter_name_or_path": "ft"}, "model_name_or_path", "'base'"),
        (GOOD | {"model_name_or_path": "other", "adapter_name_or_path": "ft"}, "adapter_name_or_path", "'base'"),
        (GOOD | {"model_name_or_path": "ft", "finetuning_type": "full"}, "finetuning_type", "merged"),
        (EXPORT | {"model_name_or_path": "small"}, "model_name_or_path", "quantized already"),
        (EXPORT | {"model_name_or_path": "base", "adapter_name_or_path": "whole"}, "adapter_name_or_path", "merged"),
        (EXPORT | {"model_name_or_path": "other", "adapter_name_or_path": "ft"}, "adapter_name_or_path", "'base'"),
        (EXPORT | {"model_name_or_path": "base", "adapter_name_or_path": "ft,whole"}, "adapter_name_or_path", "merged"),
        (
            EXPORT | {"model_name_or_path": "base", "export_quantization_dataset": "notes"},
            "export_quantization_dataset",
            "user_data",
        ),
        (GOOD | {"dataset": ["sums", "pair"]}, "dataset", "has rows that are preference pairs, but stage sft needs"),
        (GOOD | {"eval_dataset": "labelled"}, "eval_dataset", "answers with a label"),
        (GOOD | {"dataset": "text"}, "dataset", "name the answer's column as `response`"),
        (GOOD | {"then": [{"kind": "train", "dataset": "notes"}]}, "then[0].dataset", "user_data"),
        (GOOD | {"model_name_or_path": "judge"}, "model_name_or_path", "a reward model"),
        (GOOD | {"model_name_or_path": "whole-judge"}, "model_name_or_path", "a reward model"),
        (GOOD | {"adapter_name_or_path": "judge"}, "adapter_name_or_path", "a reward model"),
        (GOOD | {"stage": "dpo", "dataset": "pair", "ref_model": "whole-judge"}, "ref_model", "a reward model"),
        (EXPORT | {"model_name_or_path": "judge"}, "model_name_or_path", "a reward model"),
        (RM | {"then": [{"kind": "export"}]}, "then[0].model_name_or_path", "writes no answers"),
        (RM | {"then": [{"kind": "deploy", "name": "j"}]}, "then[0].model", "writes no answers"),
        (RM | {"then": [{"kind": "train", "dataset": "sums"}]}, "then[0].model_name_or_path", "writes no answers"),
        (GOOD | {"then": [{"kind": "export", "model": "small"}]}, "then[0].model_name_or_path", "quantized"),
        (EXPORT | {"model_name_or_path": "odd", "export_format": "gguf"}, "export_format", "LlamaForCausalLM"),
    ],
)
def test_what_no_worker_could_do_is_refused(platform: Platform, body: dict[str, Any], field: str, told: str) -> None:
    answer = platform.post("/v1/jobs", body)
    assert answer.status_code == 422, answer.get_json()
    issues = {issue["field"]: issue["message"] for issue in answer.get_json()["error"]["issues"]}
    assert told in issues[field]


@pytest.mark.parametrize(
    "body",
    [
        GOOD | {"model_name_or_path": "ft", "seed": 1},
        GOOD | {"adapter_name_or_path": "ft", "seed": 2},
        GOOD | {"eval_dataset": "checks", "seed": 3},
        RM | {"model_name_or_path": "judge", "then": [RM | {"kind": "train", "seed": 9}]},
        EXPORT | {"model_name_or_path": "ft"},
        EXPORT | {"model_name_or_path": "whole", "export_quantization_bit": 4},
    ],
)
def test_what_fits_passes(platform: Platform, body: dict[str, Any]) -> None:
    assert platform.post("/v1/jobs", body).status_code == 201


def test_a_reward_model_is_not_deployed(platform: Platform) -> None:
    for body, field in (({"model": "whole-judge"}, "model"), ({"model": "judge"}, "model")):
        answer = platform.post("/v1/deployments", body | {"name": "j"})
        assert answer.status_code == 422, answer.get_json()
        [issue] = answer.get_json()["error"]["issues"]
        assert issue["field"] == field and "a reward model" in issue["message"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/deployments"])
def test_a_model_that_brings_code_needs_the_administrators_list(platform: Platform, path: str) -> None:
    named = {"model": "own-code"} | ({"dataset": "sums"} if path == "/v1/jobs" else {})
    answer = platform.post(path, named | {"trust_remote_code": True})
    issue = answer.get_json()["error"]["issues"][0]
    assert (answer.status_code, issue["field"], issue["code"]) == (422, "trust_remote_code", "not_allowed")
    assert "TUNESMITH_TRUST_REMOTE_CODE" in issue["message"]


@pytest.mark.parametrize(("name", "trusted"), [("org/unknown", False), ("org/listed", True)])
def test_code_from_the_hub_is_nobodys_to_allow_but_the_administrators(tmp_path: Path, name: str, trusted: bool) -> None:
    platform = make_platform(tmp_path, trust_remote_code=["org/listed"], hub=True)
    body = {"kind": "export", "model_name_or_path": name, "trust_remote_code": True}
    job = platform.post("/v1/jobs", body).get_json()
    assert job["spec"]["trust_remote_code"] is trusted
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    told = [event["data"].get("field") for event in events]
    assert ("trust_remote_code" in told) is not trusted


def test_a_switch_that_a_model_does_not_need_is_set_back_with_a_warning(platform: Platform) -> None:
    told = findings(platform, GOOD | {"trust_remote_code": True, "seed": 20})
    assert "set back to false" in told["trust_remote_code"]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("mistral", "family 'llama'"),
        ("gemma", "<end_of_turn>"),
        ("llama3", "which the tokenizer of 'base' does not have"),
        ("smollm2", ""),
        ("alpaca", ""),
        ("default", ""),
    ],
)
def test_a_template_of_another_family_is_remarked(platform: Platform, template: str, told: str) -> None:
    for model in ("base", "ft"):
        found = findings(platform, GOOD | {"template": template, "model_name_or_path": model, "seed": 30})
        assert told in found.get("template", "")
        assert bool(told) == ("template" in found)


def test_a_template_that_writes_other_text_than_the_models_own_is_remarked_with_the_right_name(
    platform: Platform,
) -> None:
    root = platform.settings.import_roots[0]
    (root / "spoken").mkdir()
    for path in (root / "tiny").iterdir():
        (root / "spoken" / path.name).write_bytes(path.read_bytes())
    (root / "spoken" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (root / "spoken" / "tokenizer_config.json").write_text('{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}')
    assert platform.post("/v1/models", {"name": "own-words", "model_name_or_path": "spoken"}).status_code == 201
    told = {
        template: findings(platform, GOOD | {"template": template, "model_name_or_path": "own-words", "seed": 31})
        for template in ("yi", "vicuna", "opencoder")
    }
    assert "template" not in told["yi"]
    assert "from character 0 on" in told["vicuna"]["template"]
    assert "OpenCoder" in told["opencoder"]["template"]
    plan = platform.post("/v1/plans", GOOD | {"template": "opencoder", "model_name_or_path": "own-words"}).get_json()
    advice = [found["advice"] for found in plan["findings"] if found["field"] == "template"]
    assert any("By name it is 'yi'" in told or "By name it is 'smollm'" in told for told in advice), advice


def test_every_template_is_told(platform: Platform) -> None:
    answer = platform.get("/v1/templates").get_json()
    made = {template["name"]: template for template in answer["data"]}
    assert answer["object"] == "list" and len(made) == 124
    assert made["qwen3"] == {
        "name": "qwen3", "model_types": ["qwen2", "qwen3", "qwen3_moe", "qwen3_next"], "default_system": "",
        "stop_words": ["<|im_end|>"], "tool_format": "qwen", "thinks": True, "ends_once": False, "text_only": False,
    }  # fmt: skip
    named = platform.get("/v1/templates?model=Qwen/Qwen3-8B").get_json()["data"]
    assert [template["name"] for template in named] == ["qwen3"]


def test_more_devices_than_any_worker_has_are_remarked(platform: Platform) -> None:
    beat: dict[str, Any] = {"kinds": ["train"], "host": "h", "storage_id": "s", "version": "1"}
    platform.store.workers.beat("w", devices=["GPU-1", "GPU-2"], **beat)
    told = findings(platform, GOOD | {"num_processes": 4})["num_processes"]
    assert told == "No worker has 4 device(s): the job waits for one. There is w (2 x GPU)."
    assert "num_processes" not in findings(platform, GOOD | {"num_processes": 2})


def test_a_format_that_no_machine_here_serves_is_refused_with_what_is_served(platform: Platform) -> None:
    project = platform.store.projects.default().id
    files: dict[str, Any] = {"uri": "store://m", "digest": "d", "size_bytes": 1, "format": "fp8"}
    platform.store.models.create(project, NewModel(name="tiny-fp8", kind="quantized", base_model="base", **files))
    beat: dict[str, Any] = {"kinds": ["replica"], "host": "h", "storage_id": "s", "version": "1"}
    platform.store.workers.beat("r", devices=["cpu"], **beat)

    answer = platform.post("/v1/deployments", {"model": "tiny-fp8"})

    assert answer.status_code == 422
    [told] = answer.get_json()["error"]["issues"]
    assert (told["field"], told["code"]) == ("model", "not_served_here")
    assert "NVIDIA cards of compute capability 7.5 and newer: here are CPUs" in told["message"]
    assert told["message"].endswith("merged, w4a16, w8a8")
    card = {"id": "GPU-1", "kind": "NVIDIA L4", "capability": 8.9}
    platform.store.workers.beat("g", devices=["GPU-1"], machine={"devices": [card]}, **beat)
    assert platform.post("/v1/deployments", {"model": "tiny-fp8"}).status_code == 201


def test_several_nodes_are_required_counted_and_shown(platform: Platform) -> None:
    beat: dict[str, Any] = {"kinds": ["train"], "host": "h", "storage_id": "s", "version": "1"}
    platform.store.workers.beat("w", devices=["GPU-1", "GPU-2"], **beat)
    body = GOOD | {"num_nodes": 2, "num_processes": 2, "seed": 41}

    job = platform.post("/v1/jobs", body).get_json()

    assert job["requires"] == {"num_devices": 2, "num_nodes": 2}
    assert platform.get(f"/v1/jobs/{job['id']}").get_json()["nodes"] == []
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    assert any("2 workers with as many devices are wanted, 1 report" in event["message"] for event in events)
    plan = platform.post("/v1/plans", body).get_json()["training"]
    assert plan["num_devices"] == 4 and plan["effective_batch"] == 4 * job["spec"]["per_device_train_batch_size"]


def test_nodes_need_a_folder_that_all_see(platform: Platform, tmp_path: Path) -> None:
    elsewhere = ArtifactStore("memory://", tmp_path)
    services = replace(platform.app.extensions[NAME], artifacts=elsewhere)
    project = platform.store.projects.default().id

    [complaint] = fitness.unfit(services, project, schema.load(TrainSpec, GOOD | {"num_nodes": 2}), {})

    assert (complaint.field, "TUNESMITH_STORAGE_URL" in str(complaint.message)) == ("num_nodes", True)


def test_a_job_that_no_worker_waits_for_is_accepted(platform: Platform) -> None:
    platform.store.workers.remove("w")
    job = platform.post("/v1/jobs", GOOD | {"seed": 40}).get_json()
    events = platform.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    assert any("No train worker" in event["message"] for event in events)
