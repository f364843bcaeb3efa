"""The artifact store on a folder and on a remote kind of file system: the same behaviour, no way out of the root."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.artifact import ArtifactStore, CorruptArtifact
from shared.errors import Conflict, InvalidRequest, NotFound
from tests import s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3.serve(patch) as url:
        yield url


@pytest.fixture(params=["folder", "url", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    roots = {
        "folder": lambda: str(tmp_path / "root"),
        "url": lambda: f"file://{tmp_path}/root",
        "memory": lambda: f"memory://root-{uuid.uuid4().hex}",
        "s3": lambda: f"{request.getfixturevalue('bucket')}/root-{uuid.uuid4().hex}",
    }
    return ArtifactStore(roots[request.param](), tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights.safetensors").write_bytes(os.urandom(5000))
    return folder


def test_a_sealed_folder_comes_back_as_it_was(store: ArtifactStore, model: Path) -> None:
    uri = store.uri("models", "m1")

    sealed = store.put_folder(model, uri)

    assert (sealed.uri, sealed.size_bytes) == ("store://models/m1", 5002)
    assert [file.path for file in sealed.files] == ["config.json", "deep/weights.safetensors"]
    assert store.exists(uri)
    assert store.verify(uri) == sealed == store.sealed(uri)
    local = store.local_path(uri)
    assert (local / "deep" / "weights.safetensors").read_bytes() == (
        model / "deep" / "weights.safetensors"
    ).read_bytes()
    assert local.name == "m1"
    with store.open(f"{uri}/config.json") as file:
        assert file.read() == b"{}"


def test_the_digest_is_of_the_content_only(store: ArtifactStore, model: Path) -> None:
    first = store.put_folder(model, store.uri("a"))
    os.utime(model / "config.json", (1, 1))
    assert store.put_folder(model, store.uri("b")).digest == first.digest
    again = store.put_folder(store.local_path(store.uri("a")), store.uri("c"))
    assert again.digest == first.digest


def test_sealing_again_changes_nothing_and_something_else_is_refused(store: ArtifactStore, model: Path) -> None:
    uri = store.uri("m")
    sealed = store.put_folder(model, uri)
    assert store.put_folder(model, uri) == sealed

    (model / "config.json").unlink()
    (model / "config.json").write_text("{ }")
    with pytest.raises(Conflict):
        store.put_folder(model, uri)
    assert store.verify(uri) == sealed


def test_files_without_a_manifest_are_no_artifact(store: ArtifactStore, model: Path) -> None:
    uri = store.uri("m")
    store.put_folder(model, uri)
    store.delete(f"{uri}/manifest.json")

    assert not store.exists(uri)
    with pytest.raises(NotFound):
        store.local_path(uri)
    store.put_folder(model, uri)  # what an upload that broke off left is put right by the next
    assert store.verify(uri)


def test_a_file_that_changed_is_found(store: ArtifactStore, model: Path) -> None:
    uri = store.uri("m")
    store.put_folder(model, uri)
    other = model.parent / "other"
    other.write_bytes(b"tampered")
    store.put_file(other, f"{uri}/config.json")

    with pytest.raises(CorruptArtifact, match=r"config\.json"):
        store.verify(uri)


def test_one_file(store: ArtifactStore, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n')
    uri = store.uri("datasets", "file-1", "rows.jsonl")

    sealed = store.put_file(rows, uri)

    assert sealed.size_bytes == 9
    assert store.local_path(uri).read_text() == '{"a": 1}\n'
    assert store.local_path(uri).name == "rows.jsonl"
    store.delete(store.uri("datasets", "file-1"))
    assert not store.exists(uri)
    store.delete(uri)


def test_the_root_keeps_its_name(store: ArtifactStore) -> None:
    name = store.storage_id()
    assert name.startswith("storage-")
    assert store.storage_id() == name


@pytest.mark.parametrize(
    "uri",
    [
        "store://../x",
        "store://a/../../x",
        "store:///etc/passwd",
        "store://a//b",
        "store://a/.",
        "store://",
        "/etc/passwd",
        "file:///etc/passwd",
        "store://a\\b",
        "store://a\0b",
        "store://a*",
    ],
)
def test_no_uri_leads_out_of_the_root(store: ArtifactStore, tmp_path: Path, uri: str) -> None:
    for ask in (store.exists, store.open, store.local_path, store.delete, store.verify):
        with pytest.raises(InvalidRequest):
            ask(uri)
    with pytest.raises(InvalidRequest):
        store.put_file(tmp_path, uri)


def test_parts_of_a_uri_are_names(store: ArtifactStore) -> None:
    with pytest.raises(InvalidRequest):
        store.uri("models", "..")


def test_a_users_files_stay_theirs_and_adopted_ones_are_not_copied(tmp_path: Path, model: Path) -> None:
    store = ArtifactStore(str(tmp_path / "root"), tmp_path / "cache")
    config = model / "config.json"
    config.chmod(0o640)

    store.put_folder(model, store.uri("copied"))
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert not (store.local_path(store.uri("copied")) / "config.json").samefile(config)

    store.put_folder(model, store.uri("adopted"), adopt=True)
    assert (store.local_path(store.uri("adopted")) / "config.json").samefile(config)
    assert stat.S_IMODE(config.stat().st_mode) == 0o444


def test_a_link_out_of_the_folder_is_not_followed(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / "inside.json").symlink_to(model / "config.json")
    assert len(store.put_folder(model, store.uri("inside")).files) == 3

    (model / "outside.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidRequest, match=r"outside\.json"):
        store.put_folder(model, store.uri("outside"))


def test_what_is_not_there(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for ask in (store.local_path, store.open, store.verify):
        with pytest.raises(NotFound):
            ask("store://nothing")
    with pytest.raises(NotFound, match="no files"):
        store.put_folder(tmp_path / "empty", store.uri("m"))


def test_a_remote_artifact_is_fetched_once_and_checked(tmp_path: Path, model: Path) -> None:
    store = ArtifactStore(f"memory://root-{uuid.uuid4().hex}", tmp_path / "cache")
    uri = store.uri("m")
    store.put_folder(model, uri)
    first = store.local_path(uri)
    (first / "mark").touch()
    assert (store.local_path(uri) / "mark").exists()

    other = store.uri("n")
    (model / "more").write_text("x")
    store.put_folder(model, other)
    (tmp_path / "bad").write_text("y")
    store.put_file(tmp_path / "bad", f"{other}/more")
    with pytest.raises(CorruptArtifact):
        store.local_path(other)
    assert not list((tmp_path / "cache" / "artifacts").glob("*/n"))


def test_what_was_fetched_and_is_not_asked_for_leaves_this_machine(tmp_path: Path, model: Path) -> None:
    store = ArtifactStore(f"memory://root-{uuid.uuid4().hex}", tmp_path / "cache")
    for name in ("old", "new"):
        (model / "config.json").write_text(name)
        store.put_folder(model, store.uri(name))
    old, new = (store.local_path(store.uri(name)) for name in ("old", "new"))
    for place in (old, new):
        os.utime(place.parent, (1, 1))
    assert store.local_path(store.uri("new")) == new

    assert store.forget_unused(3600) == 1

    assert (old.exists(), (new / "config.json").read_text()) == (False, "new")
    assert (store.local_path(store.uri("old")) / "config.json").read_text() == "old"
