"""The registry over HTTP: files of a model come as streams and in ranges, and a model says where it comes from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gateway import cli
from shared.job import Kind, Status
from shared.records import NewModel
from tests.platform import Platform, make_platform, serve

WEIGHTS = os.urandom(3 * 1024**2 + 7)
LONG = "deep/" + "n" * 120 + ".json"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    made = make_platform(tmp_path_factory.mktemp("home"))
    folder = made.settings.home / "made"
    for name, content in {"config.json": b"{}", "model.safetensors": WEIGHTS, LONG: b"[1]", "empty": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    add_model(made, "team/mine", folder)
    return made


def add_model(platform: Platform, name: str, folder: Path, **members: Any) -> None:
    sealed = platform.artifacts.put_folder(folder, platform.artifacts.uri("models", name.replace(":", "-")))
    told = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes, "format": "safetensors"}
    new = NewModel(**{"name": name, "kind": "merged", **told, **members})
    platform.store.models.create(platform.store.projects.default().id, new)


FILE = "/v1/models/team/mine/files/model.safetensors"


def test_files_are_listed_with_the_digests_that_they_have(platform: Platform) -> None:
    listed = platform.get("/v1/models/team/mine/files", role="viewer").get_json()["data"]
    assert {file["id"]: file["size_bytes"] for file in listed} == {
        "config.json": 2, LONG: 3, "empty": 0, "model.safetensors": len(WEIGHTS)
    }  # fmt: skip
    for file in listed:
        content = platform.get(f"/v1/models/{quote('team/mine', safe='')}/files/{file['id']}").get_data()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


def test_a_file_comes_whole_in_part_or_not_at_all(platform: Platform) -> None:
    whole = platform.get(FILE)
    assert whole.get_data() == WEIGHTS
    assert (whole.headers["Accept-Ranges"], whole.content_length) == ("bytes", len(WEIGHTS))
    tag = whole.headers["ETag"]
    assert tag == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert whole.headers["Content-Disposition"] == "attachment; filename=model.safetensors"

    for asked, expected in {
        "bytes=0-0": WEIGHTS[:1], "bytes=1048570-2097160": WEIGHTS[1048570:2097161],
        "bytes=3145728-": WEIGHTS[3145728:], "bytes=-5": WEIGHTS[-5:],
    }.items():  # fmt: skip
        part = platform.get(FILE, headers={"Range": asked, "If-Range": tag})
        assert (part.status_code, part.get_data()) == (206, expected)
        assert part.headers["Content-Range"].endswith(f"/{len(WEIGHTS)}")
    # The file is another one by now, or what is asked for may be passed over: all of it.
    for headers in ({"Range": "bytes=5-", "If-Range": '"old"'}, {"Range": "bytes=0-1,5-6"}, {"Range": "lines=1-2"}):
        assert platform.get(FILE, headers=headers).get_data() == WEIGHTS
    known = platform.get(FILE, headers={"If-None-Match": tag})
    assert (known.status_code, known.get_data()) == (304, b"")
    beyond = platform.get(FILE, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    assert (beyond.status_code, beyond.get_json()["error"]["code"]) == (416, "range_not_satisfiable")


def test_what_a_file_is_can_be_asked_without_its_content(platform: Platform) -> None:
    asked = platform.client.head(FILE, headers=platform.headers("viewer"))
    assert (asked.status_code, asked.content_length, asked.get_data()) == (200, len(WEIGHTS), b"")


@pytest.mark.parametrize("path", ["../../ledger.sqlite3", "%2e%2e/%2e%2e/ledger.sqlite3", "/etc/passwd", "deep"])
def test_no_path_leads_out_of_the_model(platform: Platform, path: str) -> None:
    answer = platform.get(f"/v1/models/team/mine/files/{path}")
    assert (answer.status_code, answer.get_json()["error"]["type"]) == (404, "not_found_error")


def test_a_misspelt_file_or_model_is_told_the_nearest(platform: Platform) -> None:
    answer = platform.get("/v1/models/team/mine/files/model.safetensor").get_json()
    assert "'model.safetensors'" in answer["error"]["message"]
    for path in ("files", "archive", "files/config.json"):
        answer = platform.get(f"/v1/models/team/mime/{path}").get_json()
        assert answer["error"]["code"] == "model_not_found"
        assert "'team/mine'" in answer["error"]["message"]


def test_an_archive_holds_every_file_and_can_be_taken_up_anywhere(platform: Platform) -> None:
    answer = platform.get("/v1/models/team/mine/archive")
    packed = answer.get_data()
    assert answer.content_length == len(packed)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        held = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert held == {
        "mine/config.json": b"{}", f"mine/{LONG}": b"[1]", "mine/empty": b"", "mine/model.safetensors": WEIGHTS
    }  # fmt: skip
    for start in (0, 511, 513, 2000, len(packed) - 3, 1024**2):
        headers = {"Range": f"bytes={start}-", "If-Range": answer.headers["ETag"]}
        assert platform.get("/v1/models/team/mine/archive", headers=headers).get_data() == packed[start:]


def test_the_command_takes_a_download_up_where_it_broke_and_checks_it(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "model.safetensors.part").write_bytes(WEIGHTS[:1_000_000])
    (target / "config.json").write_bytes(b"{]")  # of another model: fetched anew
    with serve(platform) as url:
        monkeypatch.setenv("TUNESMITH_URL", url)
        monkeypatch.setenv("TUNESMITH_API_KEY", platform.keys["viewer"])
        assert cli.main(["models", "download", "team/mine", str(target)]) == 0
        assert "4 files, 3.0 MiB" in capsys.readouterr().out
        assert {path.name for path in target.rglob("*") if path.is_file()} == {
            "config.json", "model.safetensors", "empty", Path(LONG).name
        }  # fmt: skip
        assert (target / "model.safetensors").read_bytes() == WEIGHTS

        assert cli.main(["models", "show", "team/mine"]) == 0
        assert "1 of team/mine" in capsys.readouterr().out
        (target / "model.safetensors").unlink()
        (target / "model.safetensors.part").write_bytes(b"x" + WEIGHTS[1:1000])
        assert cli.main(["models", "download", "team/mine", str(target)]) == 2
        assert "SHA-256" in capsys.readouterr().err
        assert not list(target.glob("model*"))

        monkeypatch.setenv("TUNESMITH_API_KEY", platform.keys["user"])
        (target / "config.json").write_text('{"model_type": "llama"}')
        (target / "training_args.bin").write_text("pickle")
        assert cli.main(["models", "upload", "by-me", str(target)]) == 2  # the weights were not brought again
        (target / "model.safetensors").write_bytes(WEIGHTS)
        assert cli.main(["models", "upload", "by-me", str(target)]) == 0
        assert "base, 3.0 MiB" in capsys.readouterr().out
        words = ["models", "tag", "team/mine", "--aliases", "good,best", "--metadata", "by=me"]
        assert cli.main(words) == 0
        assert "aliases best, good; tags none" in capsys.readouterr().out
        assert cli.main(["models", "list", "team/mine"]) == 0
        assert "best, good" in capsys.readouterr().out


def patch(platform: Platform, name: str, body: Any) -> Any:
    return platform.client.patch(f"/v1/models/{name}", json=body, headers=platform.headers("user"))


def test_a_version_is_named_by_number_alias_or_latest_wherever_a_model_is(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name in ("bot", "bot-2"):
        add_model(platform, name, tmp_path, family="bot")
    assert patch(platform, "bot", {"aliases": ["live"], "tags": ["eu"], "metadata": {"by": "me"}}).status_code == 200
    assert [platform.get(f"/v1/models/bot@{word}").get_json()["id"] for word in ("1", "live", "2", "latest")] == [
        "bot", "bot", "bot-2", "bot-2"
    ]  # fmt: skip
    assert platform.get("/v1/models/bot@live/files").get_json()["data"][0]["id"] == "config.json"
    listed = platform.get("/v1/models?family=bot&tag=eu").get_json()["data"]
    assert [(one["id"], one["version"], one["aliases"], one["metadata"]) for one in listed] == [
        ("bot", 1, ["live"], {"by": "me"})
    ]

    # What is queued keeps the version that the alias meant.
    job = platform.post("/v1/jobs", {"kind": "export", "model_name_or_path": "bot@live"}).get_json()
    patch(platform, "bot-2", {"aliases": ["live"]})
    assert platform.get(f"/v1/jobs/{job['id']}").get_json()["spec"]["model_name_or_path"] == "bot"
    refused = platform.client.delete("/v1/models/bot@1", headers=platform.headers())
    assert (refused.status_code, job["id"] in refused.get_json()["error"]["message"]) == (409, True)
    deployed = platform.post("/v1/deployments", {"model": "bot@live"}).get_json()
    assert deployed["model"] == "bot-2"


@pytest.mark.parametrize(
    "body",
    [
        {"aliases": ["1"]}, {"aliases": ["latest"]}, {"aliases": "x"}, {"aliases": ["a b"]}, {"tags": [""]},
        {"tags": ["x"] * 33}, {"metadata": {"a": 1}}, {"metadata": {"source": "x"}}, {"metadata": []}, {"tag": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_written_on_a_model_is_told_by_its_field(platform: Platform, body: dict[str, Any]) -> None:
    refused = patch(platform, "team/mine", body)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, next(iter(body)))


def test_a_model_tells_its_way_from_the_base_also_when_a_part_is_deleted(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    store, project = platform.store, platform.store.projects.default().id
    pin = {"id": "file-1", "digest": "sha256:d"}
    train, _ = store.jobs.create(
        project, kind=Kind.TRAIN, spec={"dataset": ["facts"]}, request={"datasets": {"facts": pin}}
    )
    export, _ = store.jobs.create(project, kind=Kind.EXPORT, spec={})
    add_model(platform, "line", tmp_path, kind="base")
    add_model(platform, "line-a", tmp_path, kind="adapter", base_model="line", job_id=train.id)
    made = {"base_model": "line", "job_id": export.id}
    add_model(platform, "line-m", tmp_path, config={"parent": "line-a", "training_job": train.id}, **made)
    add_model(platform, "line-q", tmp_path, kind="quantized", config={"parent": "line-m"}, **made)

    told = platform.get("/v1/models/line-q").get_json()["lineage"]
    names = ["line", train.id, "line-a", export.id, "line-m", export.id, "line-q"]
    assert [step["id"] for step in told] == names
    assert told[1]["datasets"] == [{"name": "facts", **pin}]
    assert platform.get("/v1/models/line-a").get_json()["derived"] == ["line-m"]

    assert platform.client.delete("/v1/models/line-a", headers=platform.headers()).status_code == 200
    told = platform.get("/v1/models/line-q").get_json()["lineage"]
    assert [step["id"] for step in told] == names
    assert [step["in_catalog"] for step in told if step["object"] == "model"] == [False, False, True, True]


def test_a_push_is_a_job_whose_token_is_seen_nowhere(tmp_path: Path) -> None:
    platform = make_platform(tmp_path, hub=True)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text("{}")
    add_model(platform, "mine", tmp_path / "made")
    body = {"kind": "push", "model_name_or_path": "mine@latest", "export_hub_model_id": "me/mine"}

    lacking = platform.post("/v1/jobs", body).get_json()["error"]["issues"]
    assert [issue["field"] for issue in lacking] == ["hf_hub_token"]
    job = platform.post("/v1/jobs", body | {"hf_hub_token": "hf_secret"}).get_json()
    assert (job["kind"], job["requires"], job["spec"]["export_hub_private"]) == ("push", {"num_devices": 0}, True)
    assert job["spec"]["model_name_or_path"] == "mine"
    assert "hf_secret" not in platform.get(f"/v1/jobs/{job['id']}").get_data(as_text=True)
    assert platform.client.delete("/v1/models/mine", headers=platform.headers()).status_code == 409

    claim = platform.store.attempts.claim_next(worker_id="w", kinds=[Kind.PUSH])
    assert claim is not None and claim.secrets == {"hf_hub_token": "hf_secret"}
    result = {"url": "https://hub/me/mine", "commit": "abc"}
    platform.store.attempts.finish(claim.job.id, claim.attempt, status=Status.SUCCEEDED, result=result)
    assert platform.get("/v1/models/mine").get_json()["pushes"] == [{"job_id": job["id"], **result}]


def test_an_export_that_names_a_repository_is_followed_by_its_push(tmp_path: Path) -> None:
    platform = make_platform(tmp_path, hub=True)
    platform.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    export = {"kind": "export", "model_name_or_path": "tiny", "export_hub_model_id": "me/mine"}
    refused = platform.post("/v1/jobs", export)
    assert refused.get_json()["error"]["param"] == "hf_hub_token"
    for body, then in (
        (export, 0),
        ({"kind": "export", "model_name_or_path": "tiny", "then": [{**export, "model_name_or_path": "tiny"}]}, 1),
    ):
        job = platform.post("/v1/jobs", body | {"hf_hub_token": "hf_secret"}).get_json()
        entry = job["then"][0]["then"][0] if then else job["then"][0]
        assert (entry["kind"], entry["spec"]["export_hub_model_id"], entry["spec"]["model_name_or_path"]) == (
            "push", "me/mine", "$model"
        )  # fmt: skip
    off = make_platform(tmp_path / "off")
    off.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    refused = off.post("/v1/jobs", export | {"hf_hub_token": "hf_secret"}).get_json()["error"]
    assert (refused["param"], "TUNESMITH_HUB" in refused["message"]) == ("export_hub_model_id", True)


def adapter_files(folder: Path, base: str) -> Path:
    """As LLaMA Factory leaves them, with what a training has beside its model."""
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": base,
    }
    for name, content in {
        "adapter_config.json": json.dumps(config), "adapter_model.safetensors": "weights", "tokenizer.json": "{}",
        "training_args.bin": "pickle", "checkpoint-2/optimizer.pt": "pickle",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def upload(platform: Platform, name: str, folder: Path, **fields: str) -> Any:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [(io.BytesIO(path.read_bytes()), path.relative_to(folder).as_posix()) for path in paths]
    data = {"name": name, "files": files, **fields}
    return platform.client.post("/v1/models", data=data, headers=platform.headers("user"))


def test_an_adapter_of_somebody_else_comes_as_a_folder_or_as_an_upload(platform: Platform, tmp_path: Path) -> None:
    platform.post("/v1/models", {"name": "tiny", "model_name_or_path": "tiny"})
    root = adapter_files(platform.settings.home / "import" / "lora", base="tiny")
    added = platform.post("/v1/models", {"name": "theirs", "model_name_or_path": "lora"})
    assert (added.status_code, added.get_json()["kind"], added.get_json()["base_model"]) == (201, "adapter", "tiny")

    elsewhere = adapter_files(tmp_path / "lora", base="/data/models/tiny")
    refused = upload(platform, "mine", elsewhere).get_json()["error"]
    assert (refused["param"], "/data/models/tiny" in refused["message"]) == ("base_model", True)
    made = upload(platform, "mine", elsewhere, base_model="tiny")
    assert (made.status_code, made.get_json()["base_model"]) == (201, "tiny")
    names = [file["id"] for file in platform.get("/v1/models/mine/files").get_json()["data"]]
    assert names == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert platform.get("/v1/models/mine").get_json()["config"]["lora_rank"] == 4
    assert platform.get("/v1/models/tiny").get_json()["derived"] == ["theirs", "mine"]
    assert platform.post("/v1/jobs", {"kind": "export", "model_name_or_path": "mine"}).status_code == 201

    assert upload(platform, "mine", elsewhere, base_model="tiny").status_code == 200
    (elsewhere / "tokenizer.json").write_text("[]")
    assert upload(platform, "mine", elsewhere, base_model="tiny").status_code == 409
    assert upload(platform, "theirs", root).status_code == 409
    assert [path.name for path in (platform.settings.run_dir / "uploads").iterdir()] == []


def test_an_upload_holds_nothing_but_a_models_files(platform: Platform, tmp_path: Path) -> None:
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights"}
    told = {
        "../config.json": "relative path", "/etc/config.json": "relative path", "pytorch_model.bin": "may run code",
    }  # fmt: skip
    for name, why in told.items():
        parts = [(io.BytesIO(content), path) for path, content in {**files, name: b"x"}.items()]
        refused = platform.client.post(
            "/v1/models", data={"name": "up", "files": parts}, headers=platform.headers()
        ).get_json()["error"]
        assert (refused["param"], why in refused["message"]) == ("files", True)
    parts = [(io.BytesIO(content), path) for path, content in files.items()]
    made = platform.client.post("/v1/models", data={"name": "up", "files": parts}, headers=platform.headers())
    assert (made.status_code, made.get_json()["kind"]) == (201, "base")
    for body in ({"name": "a@b"}, {"name": "a/files/b"}):
        refused = platform.post("/v1/models", {**body, "model_name_or_path": "tiny"})
        assert (refused.status_code, refused.get_json()["error"]["param"]) == (422, "name")
