"""Which adapters one replica loads and unloads, and when, on a real ledger and real files; the engine is a shelf."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference_worker.adapters import LAST_REQUEST_SECONDS, MAX_RETRY_SECONDS, RETRY_SECONDS, Adapters
from shared import schema
from shared.adapterfiles import AdapterFiles
from shared.artifact import ArtifactStore
from shared.errors import ModelNotLoaded
from shared.records import Deployment, NewModel
from shared.spec import DeploySpec
from shared.store import Store


@dataclass
class Shelf:
    """An engine that keeps what it is given."""

    loaded: dict[str, Path] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def load_adapter(self, name: str, folder: Path) -> None:
        if name in self.broken:
            raise ModelNotLoaded(f"{name} does not load")
        self.loaded[name] = folder

    def unload_adapter(self, name: str) -> None:
        del self.loaded[name]


class Place:
    """One replica of a base, up and running, with room for adapters up to rank 32."""

    def __init__(self, tmp_path: Path):
        self.store = Store(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
        self.store.migrate()
        self.project_id = self.store.projects.default().id
        self.artifacts = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
        self._folder = tmp_path / "adapter"
        self._folder.mkdir()
        self.now, self.shelf = 0.0, Shelf()
        base = NewModel(
            name="base", kind="base", uri="store://base", digest="d", size_bytes=1, format="safetensors",
            config={"architectures": ["LlamaForCausalLM"]},
        )  # fmt: skip
        self.store.models.create(self.project_id, base)
        self.deploy("base")
        replica = self.store.replicas.claim_next("w")
        assert replica is not None
        self.adapters = Adapters(self.store, self.artifacts, replica, self.shelf, 32, own="own", clock=lambda: self.now)

    def add(self, name: str, rank: int = 8, place: str | None = None) -> None:
        (self._folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
        sealed = self.artifacts.put_folder(self._folder, self.artifacts.uri("models", place or name))
        new = NewModel(
            name=name, kind="adapter", base_model="base", uri=sealed.uri, digest=sealed.digest, size_bytes=1,
            format="safetensors",
        )  # fmt: skip
        self.store.models.create(self.project_id, new)

    def deploy(self, model: str) -> Deployment:
        # As if it fitted: what the door takes for small may be large.
        spec = schema.to_wire(DeploySpec(model=model))
        return self.store.deployments.create(
            self.project_id, name=model, model_name=model, spec=spec, files=AdapterFiles(rank=8)
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.adapters.look()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_is_wanted_is_loaded_and_what_is_not_leaves_after_the_last_request(place: Place) -> None:
    place.add("bot")
    place.deploy("bot")
    place.pass_time(0)
    assert place.adapters.told == (["bot"], {}) and list(place.shelf.loaded) == ["bot"]
    assert place.adapters.has_news()
    assert [event.type for event in place.adapters.take_events()] == ["adapter_loaded"]

    place.store.deployments.delete(place.project_id, "bot")
    place.pass_time(0)
    assert place.adapters.told == ([], {}) and "bot" in place.shelf.loaded
    place.pass_time(LAST_REQUEST_SECONDS)
    assert place.shelf.loaded == {}


def test_what_cannot_be_loaded_says_why_and_is_tried_less_and_less_often(place: Place) -> None:
    place.add("bot")
    place.add("large", rank=33)
    for name in ("bot", "large"):
        place.deploy(name)
    place.shelf.broken.add("bot")
    place.pass_time(0)
    assert place.adapters.told == (
        [], {"bot": "bot does not load", "large": "it has rank 33, and this replica takes adapters up to 32"}
    )  # fmt: skip

    place.shelf.broken.clear()
    place.pass_time(RETRY_SECONDS - 0.1)
    assert place.shelf.loaded == {}
    place.pass_time(0.1)
    assert place.adapters.told[0] == ["bot"] and list(place.adapters.told[1]) == ["large"]
    for _ in range(10):
        place.pass_time(MAX_RETRY_SECONDS)
    # Told once, not with each try.
    assert sorted(event.type for event in place.adapters.take_events()) == [
        "adapter_failed", "adapter_failed", "adapter_loaded"
    ]  # fmt: skip


def test_the_adapter_before_answers_until_the_new_one_is_loaded(place: Place) -> None:
    for name in ("bot", "better"):
        place.add(name)
    made = place.deploy("bot")
    place.pass_time(0)
    place.shelf.broken.add("better")
    spec = schema.to_wire(DeploySpec(model="better"))
    place.store.replicas.renew(made.host_replicas[0].id, 1, adapters=["bot"])
    place.store.deployments.update(place.project_id, made, spec, "better", AdapterFiles(rank=8))
    place.pass_time(LAST_REQUEST_SECONDS)
    assert place.adapters.told == (["bot"], {"better": "better does not load"})

    place.shelf.broken.clear()
    place.pass_time(RETRY_SECONDS)
    assert place.adapters.told == (["better"], {}) and sorted(place.shelf.loaded) == ["better", "bot"]
    place.pass_time(LAST_REQUEST_SECONDS)
    assert list(place.shelf.loaded) == ["better"]


def test_another_model_of_the_same_name_is_not_answered_by_the_one_before(place: Place) -> None:
    for where in ("first", "second"):
        place.add("bot", place=where)
        place.deploy("bot")
        for _ in range(3):
            place.pass_time(LAST_REQUEST_SECONDS)
        assert place.shelf.loaded["bot"].name == where
        place.store.deployments.delete(place.project_id, "bot")
        place.store.models.delete(place.project_id, "bot")


def test_the_adapter_that_the_replica_was_started_with_stays(place: Place) -> None:
    place.shelf.loaded["own"] = Path("/own")
    place.add("own")
    place.deploy("own")
    place.pass_time(0)
    place.store.deployments.delete(place.project_id, "own")
    for _ in range(3):
        place.pass_time(LAST_REQUEST_SECONDS)
    assert "own" in place.shelf.loaded
