"""Backups of a ledger and its artifacts, made and restored on both databases and from each to the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.admin.backup import commands, make, restore
from gateway.admin.backup.hold import Pace
from gateway.admin.backup.place import Backup, Place
from gateway.cli import main
from shared.artifact import ArtifactStore, CorruptArtifact
from shared.errors import Conflict, NotFound
from shared.job import Job, Kind
from shared.records import NewEvent, NewModel
from shared.store import Store
from shared.store.tables import metadata
from tests import s3
from tests.contract.claiming import ready

SECRET = "ts-" + "s" * 40
#: What does not depend on the database.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "place"))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def a_model(artifacts: ArtifactStore, tmp_path: Path, name: str, **files: str) -> dict[str, Any]:
    folder = tmp_path / "made" / name
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    for file, text in {"config": "{}", "deep/weights": f"weights of {name}", **files}.items():
        (folder / file).write_text(text)
    sealed = artifacts.put_folder(folder, artifacts.uri("models", name))
    return {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes}


@pytest.fixture
def used(
    store: Store,
    project: str,
    artifacts: ArtifactStore,
    tmp_path: Path,
    new_job: Callable[..., Job],
    claim: Callable[..., Any],
) -> Callable[[], Job]:
    """Use the ledger: an upload, a model, a replica, a job that runs from a checkpoint, has a secret and a follower."""

    def use() -> Job:
        (tmp_path / "rows.jsonl").write_text('{"instruction": "Umlaut \u00fc"}\n')
        sealed = artifacts.put_file(tmp_path / "rows.jsonl", "store://datasets/file-1/data")
        store.datasets.create(
            project, name="rows", filename="rows.jsonl", purpose="fine-tune", format="alpaca", columns={},
            num_rows=1, size_bytes=sealed.size_bytes, digest=sealed.digest, uri=sealed.uri,
        )  # fmt: skip
        made = a_model(artifacts, tmp_path, "smol")
        store.models.create(project, NewModel(name="smol", kind="base", format="safetensors", **made))
        store.keys.create(project, "me", "admin", secret=SECRET)
        store.deployments.create(project, name="bot", model_name="smol", spec={"model": "smol"})
        ready(store)
        here = artifacts.storage_id()
        job = new_job(secrets={"hub_token": "hf_secret"}, requires={"storage_id": here})
        assert claim(storage_id=here).job.id == job.id
        checkpoint = a_model(artifacts, tmp_path, "state")
        store.attempts.add_checkpoint(
            job.id, 1, step=5, metrics={"loss": 0.1 + 0.2}, name="smol-ckpt-5", **checkpoint,
            model=a_model(artifacts, tmp_path, "adapter") | {
                "kind": "adapter", "base_model": "smol", "format": "safetensors", "template": None, "config": {},
            },
        )  # fmt: skip
        store.attempts.renew(job.id, 1, events=[NewEvent(type="metrics", data={"step": 5, "loss": 0.5})])
        return store.jobs.get(project, job.id)

    return use


def contents(store: Store) -> dict[str, list[Any]]:
    with store.database.read() as connection:
        found = {table.name: list(connection.execute(select(table))) for table in metadata.sorted_tables}
    return {name: sorted(rows, key=repr) for name, rows in found.items() if name not in ("meta", "workers")}


def back_up(store: Store, artifacts: ArtifactStore, place: Place, scratch: Path, **given: Any) -> Backup:
    return make.make(store, artifacts, place, scratch, lambda text: None, **given)


def test_what_is_restored_elsewhere_is_what_was_saved(
    store: Store, project: str, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path,
    used: Callable[[], Job], new_url: Callable[[str], str],
) -> None:  # fmt: skip
    job = used()
    before = contents(store)
    made = back_up(store, artifacts, place, scratch)
    assert made.missing == [] and made.num_artifacts == 4
    assert (age := store.backups.age_seconds()) is not None and age < 60

    for backend in ("sqlite", "postgresql"):
        there = ArtifactStore(str(tmp_path / f"artifacts of {backend}"), tmp_path / "cache")
        with Store(new_url(backend)) as other:
            restore.restore(other, there, place, made, scratch, lambda text: None)

            assert other.keys.authenticate(SECRET) is not None
            assert there.verify("store://models/smol").digest == artifacts.verify("store://models/smol").digest
            with there.open("store://datasets/file-1/data") as file:
                assert "\u00fc" in file.read().decode()
            again = other.attempts.claim_next(
                worker_id="w2", kinds=[Kind.TRAIN], num_devices=1, storage_id=there.storage_id()
            )
            assert again is not None and (again.job.id, again.attempt) == (job.id, 2)
            assert again.secrets == {"hub_token": "hf_secret"} and again.job.spec == job.spec
            newest = other.checkpoints.latest(job.id)
            assert newest is not None and newest.metrics == {"loss": 0.1 + 0.2}
            assert [replica.status for replica in other.replicas.list()] == ["pending"]
            after = contents(other)
    for table in ("projects", "api_keys", "datasets", "models", "checkpoints", "job_secrets", "families"):
        assert after[table] == before[table], table
    assert store.jobs.get(project, job.id) == job  # the one that was copied runs on


@ON_SQLITE
def test_a_further_backup_writes_what_is_new(
    store: Store, project: str, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path,
    used: Callable[[], Job],
) -> None:  # fmt: skip
    used()
    first = back_up(store, artifacts, place, scratch)
    second = back_up(store, artifacts, place, scratch)
    third_model = a_model(artifacts, tmp_path, "third")
    store.models.create(project, NewModel(name="third", kind="base", format="safetensors", **third_model))
    third = back_up(store, artifacts, place, scratch)

    assert first.new_bytes > 0 and second.new_bytes == 0 and third.new_bytes == len("weights of third")
    assert [backup.id for backup in place.backups()] == sorted((first.id, second.id, third.id), reverse=True)

    store.models.delete(project, "third")
    fourth = back_up(store, artifacts, place, scratch)
    assert make.prune(place, 1, scratch, like=replace(fourth, storage_id="another installation's")) == (0, 0)
    assert make.prune(place, 1, scratch, like=fourth) == (3, 1)
    assert [backup.id for backup in place.backups()] == [fourth.id]
    make.check(place, fourth, scratch)


@ON_SQLITE
def test_a_place_may_be_an_object_store(
    store: Store, artifacts: ArtifactStore, scratch: Path, tmp_path: Path,
    used: Callable[[], Job], new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    used()
    with s3.serve(monkeypatch) as bucket:
        place = Place(f"{bucket}/backups of ours")
        back_up(store, artifacts, place, scratch)
        made = back_up(store, artifacts, place, scratch)
        assert make.prune(place, 1, scratch, like=made) == (1, 0)
        make.check(place, place.backup(None), scratch)

        there = ArtifactStore(f"{bucket}/storage", tmp_path / "cache")
        with Store(new_url("sqlite")) as other:
            restore.restore(other, there, place, made, scratch, lambda text: None)
            assert len(other.models.list(other.projects.default().id)) == 1
        assert there.verify("store://models/smol").digest == artifacts.sealed("store://models/smol").digest


def test_two_backups_at_once_are_one_and_the_second_is_told_who_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with s3.serve(monkeypatch) as bucket:
        for url in (str(tmp_path / "place"), f"{bucket}/place"):
            with (
                Place(url).held(told.append),
                pytest.raises(Conflict, match=f"{url} .*process {os.getpid()}, since 20"),
            ):
                Place(url).held(told.append).__enter__()
            with Place(url).held(told.append):
                pass  # it was let go
    assert told == []


def test_a_lock_whose_holder_was_killed_is_taken_over_and_one_that_only_seemed_dead_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    never, quick = Pace(renew=3600), Pace(renew=0.2, silent=0, watch=0.8)
    with s3.serve(monkeypatch) as bucket:
        gone, next = Place(f"{bucket}/place"), Place(f"{bucket}/place")
        with gone.held(told.append, never):
            with next.held(told.append, quick):
                assert "taken over from" in told[-1]
                # By whatever clock: who renews its lock is not dead.
                with pytest.raises(Conflict, match="being written"):
                    Place(f"{bucket}/place").held(told.append, quick).__enter__()
                with pytest.raises(Conflict, match="taken over by"):
                    gone.delete_objects_beside(set())
                assert next.delete_objects_beside(set()) == 0
            with pytest.raises(Conflict, match="taken over"):
                gone.delete_objects_beside(set())


@pytest.mark.parametrize(
    ("place", "told"), [("/proc/none", "backup broke off (FileNotFoundError"), ("nope://x/y", "PLACE is 'nope://x/y'")]
)
def test_a_place_that_cannot_be_used_is_told_in_a_sentence(
    place: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    assert main(["backup", place]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_disk_that_is_full_is_told_with_where_to_make_room() -> None:
    full = pytest.raises(commands.BrokenOff, match=r"No space left.*make room in /mnt/backup")
    with full, commands._telling("backup", "/mnt/backup"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_of_somebody_else_is_told_with_whose_it_must_be() -> None:
    """As a container meets one that Docker made for it, which is root's."""
    closed = pytest.raises(
        commands.BrokenOff, match=rf"/backup/lock.*runs as user {os.getuid()}, who must own the folder"
    )
    with closed, commands._telling("backup", "/backup"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/backup/lock")


@ON_SQLITE
def test_damage_is_found_and_never_restored(
    store: Store, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path,
    used: Callable[[], Job], new_url: Callable[[str], str],
) -> None:  # fmt: skip
    used()
    made = back_up(store, artifacts, place, scratch)
    [weights] = [path for path in (tmp_path / "place/objects").glob("*/*") if path.read_text() == "weights of smol"]
    weights.write_text("weights of SMOL")

    with pytest.raises(CorruptArtifact, match="damaged"):
        make.check(place, made, scratch)
    there = ArtifactStore(str(tmp_path / "other"), tmp_path / "cache")
    with Store(new_url("sqlite")) as other:
        with pytest.raises(CorruptArtifact, match="store://models/smol"):
            restore.restore(other, there, place, made, scratch, lambda text: None)
        assert not there.exists("store://models/smol")
        other.migrate()
        assert other.models.list(other.projects.default().id) == []


@ON_SQLITE
def test_files_that_are_gone_are_told_and_the_rest_is_saved(
    store: Store, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path, used: Callable[[], Job],
) -> None:  # fmt: skip
    used()
    artifacts.delete("store://models/smol")
    path = tmp_path / "artifacts/models/adapter/deep/weights"
    path.chmod(0o600)
    path.write_text("something of the same size?")

    made = back_up(store, artifacts, place, scratch)

    assert made.missing == ["store://models/adapter", "store://models/smol"]
    assert made.num_artifacts == 2
    assert store.backups.age_seconds() is None
    make.check(place, made, scratch)


@ON_SQLITE
def test_a_model_that_is_deleted_while_it_is_copied_is_not_missed(
    store: Store, project: str, artifacts: ArtifactStore, place: Place, scratch: Path, used: Callable[[], Job],
) -> None:  # fmt: skip
    used()
    store.models.create(
        project,
        NewModel(name="short", kind="base", format="safetensors", uri="store://models/gone", digest="x", size_bytes=1),
    )

    def delete_it(text: str) -> None:
        if len(store.models.list(project)) == 2:
            store.models.delete(project, "short")

    made = make.make(store, artifacts, place, scratch, delete_it)

    assert made.missing == [] and made.tables["models"] == 1


@ON_SQLITE
def test_secrets_stay_out_when_asked_and_the_files_are_private(
    store: Store, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path, used: Callable[[], Job],
) -> None:  # fmt: skip
    used()
    made = back_up(store, artifacts, place, scratch, with_secrets=False)

    with place.lines(made, "ledger.jsonl.gz", scratch) as lines:
        text = "".join(lines)
    assert "hf_secret" not in text and '"k"' not in text and not made.has_secrets
    files = [path for path in (tmp_path / "place").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "place", *files]} == {0}


@ON_SQLITE
def test_a_ledger_in_use_and_a_newer_one_are_refused(
    store: Store, artifacts: ArtifactStore, place: Place, scratch: Path, tmp_path: Path,
    used: Callable[[], Job], new_url: Callable[[str], str],
) -> None:  # fmt: skip
    used()
    made = back_up(store, artifacts, place, scratch)
    with pytest.raises(Conflict, match="1 jobs, 1 datasets, 1 models"):
        restore.restore(store, artifacts, place, made, scratch, lambda text: None)

    file = tmp_path / "place/backups" / made.id / "backup.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": "9999", "version": "9.0"}))
    with Store(new_url("sqlite")) as other, pytest.raises(Conflict, match=r"version 9\.0"):
        restore.restore(other, artifacts, place, place.backup(None), scratch, lambda text: None)
    shutil.rmtree(tmp_path / "place/backups")
    with pytest.raises(NotFound, match="no backup"):
        place.backup(None)
