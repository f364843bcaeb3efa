"""The native API: what is accepted, what is refused and how, who may do what, and the stream of events."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth import PUBLIC
from shared.job import Kind, Status
from shared.records import NewEvent
from tests.platform import ROWS, Platform, jsonl, make_platform, serve

#: A body that is accepted; tests break one thing of it.
GOOD: dict[str, Any] = {"model_name_or_path": "tiny-model", "dataset": "sums", "stage": "sft"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("platform"))
    assert made.post("/v1/models", {"name": "tiny-model", "model_name_or_path": "tiny"}).status_code == 201
    assert upload(made, jsonl(ROWS), "sums.jsonl").status_code == 201
    return made


def upload(platform: Platform, content: bytes, filename: str, **form: str) -> Any:
    data = {"file": (io.BytesIO(content), filename), **form}
    return platform.client.post("/v1/datasets", data=data, headers=platform.headers())


def test_every_route_that_is_not_public_asks_for_a_key(platform: Platform) -> None:
    asked = 0
    for rule in platform.app.url_map.iter_rules():
        if rule.endpoint in PUBLIC:
            continue
        path = rule.build({name: "x" for name in rule.arguments})
        assert path is not None
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            answer = platform.client.open(path[1], method=method)
            assert answer.status_code == 401, (method, rule.rule)
            assert answer.get_json()["error"]["code"] == "invalid_api_key"
            asked += 1
    assert asked > 25


@pytest.mark.parametrize("header", ["Bearer ts-wrong", "Bearer ", "Basic !!!", "ts-naked", "Bearer \u00e9"])
def test_wrong_keys_open_nothing(platform: Platform, header: str) -> None:
    answer = platform.client.get("/v1/jobs", headers={"Authorization": header.encode().decode("latin-1")})
    assert answer.status_code == 401


def test_a_revoked_key_opens_nothing(platform: Platform) -> None:
    project = platform.store.projects.default()
    key, secret = platform.store.keys.create(project.id, "short-lived", "user")
    headers = {"Authorization": f"Bearer {secret}"}
    assert platform.client.get("/v1/jobs", headers=headers).status_code == 200
    platform.store.keys.revoke(project.id, key.id)
    assert platform.client.get("/v1/jobs", headers=headers).status_code == 401


def test_a_browser_opens_metrics_with_the_key_as_password(platform: Platform) -> None:
    assert platform.client.get("/metrics", auth=("anybody", platform.keys["viewer"])).status_code == 200
    refused = platform.client.get("/metrics", headers={"Accept": "text/html"})
    assert refused.headers["WWW-Authenticate"].startswith("Basic")


def test_another_project_sees_nothing_of_it(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD | {"name": "mine"}).get_json()
    other = platform.store.projects.create("other")
    _, secret = platform.store.keys.create(other.id, "other", "admin")
    headers = {"Authorization": f"Bearer {secret}"}
    for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events", "/v1/models/tiny-model", "/v1/datasets/sums"):
        assert platform.client.get(path, headers=headers).status_code == 404, path
    assert platform.client.post(f"/v1/jobs/{job['id']}/cancel", headers=headers).status_code == 404
    assert platform.client.get("/v1/jobs", headers=headers).get_json()["data"] == []


def test_a_job_is_created_with_every_default_written_out(platform: Platform) -> None:
    answer = platform.post("/v1/jobs", GOOD | {"lora_rank": 16, "name": "defaults"})
    job = answer.get_json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["kind"], job["queue_position"] >= 1) == ("queued", "train", True)
    spec = job["spec"]
    assert (spec["lora_alpha"], spec["cutoff_len"], spec["lr_scheduler_type"]) == (32, 2048, "linear")


def test_a_llama_factory_yaml_posts_as_it_is(platform: Platform) -> None:
    text = """
    ### model
    model_name_or_path: tiny-model
    ### method
    stage: sft
    do_train: true
    finetuning_type: lora
    lora_rank: 8
    lora_target: all
    ### dataset
    dataset: sums
    cutoff_len: 2048
    max_samples: 1000
    preprocessing_num_workers: 16
    dataloader_num_workers: 4
    ### output
    output_dir: saves/qwen3-4b/lora/sft
    logging_steps: 10
    save_steps: 500
    plot_loss: true
    overwrite_output_dir: true
    save_only_model: false
    report_to: none
    ### train
    per_device_train_batch_size: 1
    gradient_accumulation_steps: 8
    learning_rate: 1.0e-4
    num_train_epochs: 3.0
    lr_scheduler_type: cosine
    warmup_ratio: 0.1
    bf16: true
    ddp_timeout: 180000000
    resume_from_checkpoint: null
    """
    answer = platform.client.post("/v1/jobs", data=text, content_type="application/yaml", headers=platform.headers())
    assert answer.status_code == 201, answer.get_json()
    assert answer.get_json()["spec"]["learning_rate"] == 1e-4


BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({"lora_rnk": 4}, "lora_rnk", "lora_rank"),
    ({"model_name_or_path": "tiny-modle"}, "model_name_or_path", "tiny-model"),
    ({"dataset": "smus"}, "dataset", "sums"),
    ({"template": "qwne"}, "template", "qwen"),
    ({"lora_rank": "8"}, "lora_rank", "whole number"),
    ({"lora_rank": 0}, "lora_rank", "at least 1"),
    ({"lora_rank": True}, "lora_rank", "whole number"),
    ({"learning_rate": -1}, "learning_rate", "-1"),
    ({"finetuning_type": "lroa"}, "finetuning_type", "lora"),
    ({"stage": 3}, "stage", "text"),
    ({"bf16": True, "fp16": True}, "fp16", "bf16"),
    ({"bf16": "yes"}, "bf16", "true or false"),
    ({"num_train_epochs": 1e400}, "num_train_epochs", ""),
    ({"dataset": ["sums", 4]}, "dataset", "names"),
    ({"dataset": None}, "dataset", ""),
    ({"val_size": 0.1, "eval_dataset": "sums"}, "val_size", "eval_dataset"),
    ({"deepspeed": "nope.json"}, "deepspeed", "ds_z3_config"),
    ({"deepspeed": "ds_z2_config.json", "zero_stage": 3}, "zero_stage", "deepspeed"),
    ({"use_unsloth": True}, "use_unsloth", ""),
    ({"model_name_or_path": "/etc/passwd"}, "model_name_or_path", "IMPORT_ROOTS"),
    ({"model_name_or_path": "../../etc"}, "model_name_or_path", "IMPORT_ROOTS"),
    ({"priority": 10_000}, "priority", "100"),
    ({"metadata": {"a": 1}}, "metadata", "texts"),
    ({"then": [{"kind": "fly"}]}, "then", "fly"),
    ({"then": [{"kind": "export", "export_size": "big"}]}, "then[0].export_size", "whole number"),
    ({"kind": "dance"}, "kind", "train"),
    ({"suffix": "a b"}, "suffix", "letters"),
]


@pytest.mark.parametrize(("wrong", "field", "told"), BAD_BODIES, ids=lambda value: json.dumps(value, default=str)[:60])
def test_what_is_wrong_is_refused_with_its_field(
    platform: Platform, wrong: dict[str, Any], field: str, told: str
) -> None:
    before = platform.store.jobs.counts()
    data = json.dumps(GOOD | wrong).replace("Infinity", "1e400")
    answer = platform.client.post("/v1/jobs", data=data, content_type="application/json", headers=platform.headers())
    body = answer.get_json()
    assert answer.status_code == 422, body
    issues = {issue["field"]: issue["message"] for issue in body["error"]["issues"]}
    assert field in issues
    assert told in issues[field]
    assert platform.store.jobs.counts() == before


def test_all_complaints_come_at_once(platform: Platform) -> None:
    answer = platform.post("/v1/jobs", GOOD | {"lora_rnk": 4, "learning_rate": "fast", "cutoff_len": -1})
    fields = {issue["field"] for issue in answer.get_json()["error"]["issues"]}
    assert fields == {"lora_rnk", "learning_rate", "cutoff_len"}


@pytest.mark.parametrize(
    ("content_type", "data", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"[1]", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", b'{"a": 1, "a": 2}', 400),
        ("application/json", b'{"a": NaN}', 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b"", 400),
        ("application/yaml", b"a: &x [1]\nb: *x", 400),
        ("application/yaml", b"a: 1\na: 2", 400),
        ("application/yaml", b"!!python/object:os.system {}", 400),
        ("application/yaml", b"- 1", 400),
        ("application/pdf", b"{}", 415),
        ("application/json", b'{"a": "' + b"x" * 9_000_000 + b'"}', 413),
    ],
)
def test_bodies_that_cannot_be_read_are_refused(
    platform: Platform, content_type: str, data: bytes, status: int
) -> None:
    answer = platform.client.post("/v1/jobs", data=data, content_type=content_type, headers=platform.headers())
    assert answer.status_code == status, answer.get_data()[:300]
    assert answer.get_json()["error"]["message"]


def test_a_job_tells_which_request_made_it_and_to_which_trace_it_belongs(platform: Platform) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = GOOD | {"seed": 99}

    given = platform.post(
        "/v1/jobs", body, headers={"X-Request-Id": "mine", "traceparent": f"00-{trace}-{'1' * 16}-01"}
    )
    other = platform.post(
        "/v1/jobs", body | {"seed": 98}, headers={"X-Request-Id": "no\x80id", "traceparent": "00-1-2"}
    )

    assert (given.headers["X-Request-Id"], given.json["request_id"], given.json["trace_id"]) == ("mine", "mine", trace)
    assert other.headers["X-Request-Id"].startswith("req_") and other.json["trace_id"] is None
    assert platform.get(f"/v1/jobs/{other.json['id']}").json["request_id"] == other.headers["X-Request-Id"]


def test_the_same_request_again_is_the_same_job(platform: Platform) -> None:
    first = platform.post("/v1/jobs", GOOD | {"seed": 7})
    again = platform.post("/v1/jobs", GOOD | {"seed": 7})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json()["id"] == again.get_json()["id"]


def test_an_idempotency_key_is_one_job_and_no_other(platform: Platform) -> None:
    headers = {"Idempotency-Key": "order-66"}
    first = platform.post("/v1/jobs", GOOD | {"seed": 8}, headers=headers)
    again = platform.post("/v1/jobs", GOOD | {"seed": 8}, headers=headers)
    other = platform.post("/v1/jobs", GOOD | {"seed": 9}, headers=headers)
    assert first.get_json()["id"] == again.get_json()["id"]
    assert [answer.headers["Idempotent-Replayed"] for answer in (first, again)] == ["false", "true"]
    assert (other.status_code, other.get_json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_cancel_takes_an_empty_body_and_is_repeatable(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD | {"seed": 10}).get_json()
    for _ in range(2):
        answer = platform.client.post(
            f"/v1/jobs/{job['id']}/cancel", content_type="application/json", headers=platform.headers()
        )
        assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")
    paused = platform.post(f"/v1/jobs/{job['id']}/pause")
    assert (paused.status_code, paused.get_json()["error"]["code"]) == (400, "invalid_job_state")


def test_secrets_are_never_shown(platform: Platform) -> None:
    job = platform.post("/v1/jobs", GOOD | {"seed": 11, "hf_hub_token": "hf_verysecret"}).get_json()
    assert job["spec"]["hf_hub_token"] == "***"
    shown = platform.get(f"/v1/jobs/{job['id']}").get_data() + platform.get(f"/v1/jobs/{job['id']}/events").get_data()
    assert b"hf_verysecret" not in shown


def test_followers_are_checked_at_the_door_and_kept_whole(platform: Platform) -> None:
    then = [{"kind": "export", "export_quantization_bit": 4}, {"kind": "deploy", "max_model_len": 512}]
    job = platform.post("/v1/jobs", GOOD | {"seed": 12, "then": then}).get_json()
    export, deploy = job["then"]
    assert (export["spec"]["model_name_or_path"], export["spec"]["export_quantization_bit"]) == ("$model", 4)
    assert (deploy["spec"]["model"], deploy["spec"]["max_model_len"]) == ("$model", 512)


def test_an_unknown_cursor_is_an_error_and_pages_hold_together(platform: Platform) -> None:
    assert platform.get("/v1/jobs?after=ftjob-nope").get_json()["error"]["code"] == "invalid_cursor"
    assert platform.get("/v1/jobs?limit=0").status_code == 422
    seen, after = [], ""
    while True:
        page = platform.get(f"/v1/jobs?limit=3{after}").get_json()
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert len(seen) == len(set(seen)) == sum(platform.store.jobs.counts().values())


@pytest.mark.parametrize(
    ("content", "filename", "line", "code"),
    [
        (jsonl(ROWS) + b'{"messages": [}\n', "a.jsonl", 13, "invalid_json"),
        (jsonl(ROWS[:2]) + b"\xff\n", "a.jsonl", 3, "encoding"),
        (jsonl([*ROWS[:1], {"messages": []}]), "a.jsonl", 2, "invalid_type"),
        (jsonl([{"messages": [{"role": "user", "content": "only asked"}]}]), "a.jsonl", 1, "no_assistant"),
        (jsonl([{"messages": [{"role": "robot", "content": "beep"}]}]), "a.jsonl", 1, "invalid_role"),
        (json.dumps([{"instruction": "a", "output": 5}]).encode(), "a.json", 1, "invalid_type"),
        (json.dumps([{"instruction": "a", "output": "b"}]).encode()[:-3], "a.json", 1, "invalid_json"),
        (b"", "a.jsonl", 1, "empty_file"),
        (b"instruction,output\na,b,c\n", "a.csv", 2, "invalid_csv"),
        (b'{"a":1,"a":2}\n', "a.jsonl", 1, "invalid_json"),
        (b'{"instruction":"a\\u0000","output":"b"}\n', "a.jsonl", 1, "invalid_character"),
    ],
)
def test_broken_rows_are_told_by_their_line(
    platform: Platform, content: bytes, filename: str, line: int, code: str
) -> None:
    before = platform.get("/v1/datasets?limit=100").get_json()["data"]
    answer = upload(platform, content, filename)
    issue = answer.get_json()["error"]["issues"][0]
    assert answer.status_code == 422
    assert (issue["line"], issue["code"]) == (line, code)
    assert platform.get("/v1/datasets?limit=100").get_json()["data"] == before


def test_a_dataset_in_use_stays(platform: Platform) -> None:
    upload(platform, jsonl(ROWS[:3]), "kept.jsonl")
    job = platform.post("/v1/jobs", GOOD | {"dataset": "kept"}).get_json()
    assert platform.client.delete("/v1/datasets/kept", headers=platform.headers()).status_code == 409
    platform.post(f"/v1/jobs/{job['id']}/cancel")
    assert platform.client.delete("/v1/datasets/kept", headers=platform.headers()).status_code == 200
    assert platform.get("/v1/datasets/kept").status_code == 404


@pytest.mark.parametrize("source", ["tiny/../../..", "/etc", "nowhere", "ledger.sqlite3"])
def test_models_come_from_import_roots_only(platform: Platform, source: str) -> None:
    answer = platform.post("/v1/models", {"name": "stolen", "model_name_or_path": source})
    assert answer.status_code == 422
    assert answer.get_json()["error"]["param"] == "model_name_or_path"


def test_a_folder_with_pickles_or_links_out_is_no_model(platform: Platform) -> None:
    root = platform.settings.import_roots[0]
    for name, wrong in (("pickled", "pytorch_model.bin"), ("linked", "tokenizer.json")):
        folder = root / name
        folder.mkdir()
        for path in (root / "tiny").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        path = folder / wrong
        path.write_bytes(b"x") if name == "pickled" else path.symlink_to("/etc/passwd")
        answer = platform.post("/v1/models", {"name": name, "model_name_or_path": name})
        assert answer.status_code == 422
        assert wrong in answer.get_json()["error"]["message"]


def test_a_deployment_is_asked_for_once(platform: Platform) -> None:
    first = platform.post("/v1/deployments", {"model": "tiny-model"})
    again = platform.post("/v1/deployments", {"model": "tiny-model"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json()["id"] == again.get_json()["id"]
    other = platform.post("/v1/deployments", {"model": "tiny-model", "max_model_len": 64})
    assert other.status_code == 409
    assert platform.client.delete("/v1/models/tiny-model", headers=platform.headers()).status_code == 409
    assert platform.post("/v1/deployments", {"model": "nope"}).status_code == 422
    stopped = platform.client.delete(f"/v1/deployments/{first.get_json()['id']}", headers=platform.headers())
    assert stopped.get_json()["status"] in ("stopping", "stopped")


def test_metrics_show_requests_and_jobs(platform: Platform) -> None:
    text = platform.get("/metrics").get_data(as_text=True)
    assert 'tunesmith_jobs{kind="train",status="queued"}' in text
    assert 'tunesmith_queue_depth{kind="train",priority="normal"}' in text
    assert 'tunesmith_http_requests_total{method="POST",route="/v1/jobs",status="201"}' in text
    platform.app.extensions["tunesmith"].metrics.answered_tokens.labels("ft:tiny:somebody::12345678").inc()
    assert "somebody" in platform.get("/metrics").get_data(as_text=True)
    _, tenant = platform.store.keys.create(platform.store.projects.create("tenant").id, "theirs", "admin")
    theirs = platform.client.get("/metrics", headers={"Authorization": f"Bearer {tenant}"}).get_data(as_text=True)
    assert "tunesmith_jobs{" in theirs and "somebody" not in theirs


def test_openapi_has_every_route_and_every_parameter(platform: Platform) -> None:
    described = platform.client.get("/openapi.json").get_json()
    routes = {rule.rule for rule in platform.app.url_map.iter_rules() if rule.endpoint not in PUBLIC}
    paths = {rule.replace("<path:", "{").replace("<", "{").replace(">", "}") for rule in routes}
    assert paths <= described["paths"].keys()
    assert described["components"]["schemas"]["TrainSpec"]["properties"]["lora_rank"]["minimum"] == 1
    assert platform.client.get("/docs").status_code == 200
    assert platform.client.get("/docs/static/swagger-ui-bundle.js").status_code == 200


def events_of(url: str, platform: Platform, job_id: str, last: int | None = None) -> list[dict[str, str]]:
    """Every event of the stream until it ends."""
    headers = platform.headers() | ({"Last-Event-ID": str(last)} if last else {})
    found: list[dict[str, str]] = []
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events/stream", headers=headers, timeout=30) as answer:
        for block in "".join(answer.iter_text()).split("\n\n"):
            lines = [line for line in block.splitlines() if ": " in line and not line.startswith(":")]
            fields = dict(line.split(": ", 1) for line in lines)
            if "id" in fields:
                found.append(fields)
    return found


def test_a_stream_gives_every_event_once_and_resumes_where_it_broke(platform: Platform) -> None:
    with serve(platform) as url:
        job = platform.post("/v1/jobs", GOOD | {"seed": 21, "priority": 99}).get_json()
        claim = platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id=None)
        assert claim is not None and claim.job.id == job["id"]

        def work() -> None:
            for step in range(1, 6):
                event = NewEvent(type="metrics", message=f"step {step}", data={"step": step, "loss": 1 / step})
                platform.store.attempts.renew(claim.job.id, claim.attempt, events=[event])
                time.sleep(0.3)
            platform.store.attempts.finish(claim.job.id, claim.attempt, status=Status.SUCCEEDED)

        worker = threading.Thread(target=work)
        worker.start()
        live = events_of(url, platform, job["id"])
        worker.join()
        numbers = [int(event["id"]) for event in live]
        assert numbers == list(range(1, len(numbers) + 1))
        assert live[-1]["event"] == "done"
        assert sum(event["event"] == "metrics" for event in live) == 5
        # Broken after the third event: the rest comes, nothing twice; after the last: nothing, at once.
        assert [event["id"] for event in events_of(url, platform, job["id"], last=3)] == [e["id"] for e in live[3:]]
        assert events_of(url, platform, job["id"], last=numbers[-1]) == []


def test_uploads_leave_no_scratch_behind(platform: Platform) -> None:
    upload(platform, b"{", "broken.jsonl")
    left: list[Path] = list((platform.settings.run_dir / "uploads").iterdir())
    assert left == []
