"""Datasets and models: found by name within their project, deleted only when nothing needs them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shared.errors import Conflict, InvalidRequest, NotFound
from shared.job import Kind
from shared.records import Dataset, NewModel
from shared.store import Store
from shared.store.names import MAX_NAME_CHARACTERS


def dataset(store: Store, project: str, **given: Any) -> Dataset:
    values = {
        "name": "train",
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "format": "alpaca",
        "columns": {"prompt": "instruction"},
        "num_rows": 3,
        "size_bytes": 2**40,
        "digest": "sha256:a",
        "uri": "store://datasets/a",
    }
    return store.datasets.create(project, **{**values, **given})


def model(name: str, **given: Any) -> NewModel:
    values = {"kind": "base", "uri": "store://m", "digest": "sha256:m", "size_bytes": 2**40, "format": "safetensors"}
    return NewModel(**{"name": name, **values, **given})


def test_a_dataset_is_found_by_id_and_by_name_the_newest_first(store: Store, project: str) -> None:
    old, new = dataset(store, project), dataset(store, project)
    tricky = dataset(store, project, name=old.id)

    assert old.id.startswith("file-")
    assert store.datasets.get(project, old.id) == old
    assert store.datasets.get(project, "train") == new
    assert store.datasets.get(project, tricky.id) == tricky


def test_an_upload_may_bring_its_id(store: Store, project: str) -> None:
    assert dataset(store, project, id="file-mine").id == "file-mine"


def test_datasets_come_in_pages_by_purpose(store: Store, project: str) -> None:
    made = [dataset(store, project, purpose=["batch", "fine-tune"][number % 2]) for number in range(5)]

    assert list(store.datasets.list(project, order="asc")) == made
    page = store.datasets.list(project, purpose="batch", limit=2)
    assert (page.items, page.has_more) == ([made[4], made[2]], True)
    page = store.datasets.list(project, purpose="batch", after=made[2].id, limit=2)
    assert (page.items, page.has_more) == ([made[0]], False)
    with pytest.raises(InvalidRequest):
        store.datasets.list(project, after="file-unknown")


def test_a_deleted_dataset_is_gone(store: Store, project: str) -> None:
    made = dataset(store, project)

    assert store.datasets.delete(project, made.id) == made
    with pytest.raises(NotFound):
        store.datasets.get(project, made.id)
    with pytest.raises(NotFound):
        store.datasets.delete(project, made.id)


def test_a_model_is_found_by_its_name_slashes_and_all(store: Store, project: str) -> None:
    new = model("HuggingFaceTB/SmolLM2:x", config={"hidden_size": 576}, metadata={"license": "apache-2.0"})

    made = store.models.create(project, new)

    assert store.models.get(project, "HuggingFaceTB/SmolLM2:x") == made
    assert made.id.startswith("model-") and made.size_bytes == 2**40
    assert (made.config, made.metadata) == (new.config, new.metadata)


def test_a_model_name_is_used_once_in_a_project(store: Store, project: str, other_project: str) -> None:
    store.models.create(project, model("smol"))

    with pytest.raises(Conflict):
        store.models.create(project, model("smol"))
    assert store.models.create(other_project, model("smol")).project_id == other_project


def test_models_are_listed_by_kind(store: Store, project: str) -> None:
    base, adapter = (
        store.models.create(project, new) for new in (model("b"), model("a", kind="adapter", base_model="b"))
    )

    assert store.models.list(project) == [base, adapter]
    assert store.models.list(project, kind="adapter") == [adapter]


def test_a_deployed_model_is_not_deleted_before_its_last_replica_is_gone(store: Store, project: str) -> None:
    made = store.models.create(project, model("smol"))
    deployment = store.deployments.create(project, name="bot", model_name="smol", spec={})
    replica = store.replicas.claim_next("w1")
    assert replica is not None

    with pytest.raises(Conflict, match="'bot'"):
        store.models.delete(project, "smol")
    store.deployments.delete(project, deployment.id)
    with pytest.raises(Conflict):
        store.models.delete(project, "smol")
    store.replicas.release(replica.id, replica.attempt)

    assert store.models.delete(project, "smol") == made
    with pytest.raises(NotFound):
        store.models.get(project, "smol")


def test_the_base_of_an_adapter_is_not_deleted(store: Store, project: str) -> None:
    store.models.create(project, model("b"))
    store.models.create(project, model("a", kind="adapter", base_model="b"))

    with pytest.raises(Conflict, match="'a'"):
        store.models.delete(project, "b")
    store.models.delete(project, "a")

    assert store.models.delete(project, "b").name == "b"


@pytest.mark.parametrize("name", ["", "n" * (MAX_NAME_CHARACTERS + 1)], ids=["empty", "long"])
def test_a_name_that_cannot_be_indexed_is_refused(store: Store, project: str, name: str) -> None:
    for create in (
        lambda: dataset(store, project, name=name),
        lambda: store.models.create(project, model(name)),
        lambda: store.deployments.create(project, name=name, model_name="smol", spec={}),
        lambda: store.projects.create(name),
    ):
        with pytest.raises(InvalidRequest) as caught:
            create()
        assert caught.value.field == "name"


def test_the_longest_name_of_the_widest_characters_is_stored(store: Store, project: str) -> None:
    alphabet = [chr(0x1F300 + number) for number in range(256)]
    name = "".join(random.Random(0).choices(alphabet, k=MAX_NAME_CHARACTERS))  # that no index can compress

    assert store.models.create(project, model(name)).name == store.models.get(project, name).name == name
    assert dataset(store, project, name=name).name == name


def test_another_projects_records_are_not_found(store: Store, project: str, other_project: str) -> None:
    made = dataset(store, project)
    store.models.create(project, model("smol"))
    deployment = store.deployments.create(project, name="bot", model_name="smol", spec={})

    for look, name in (
        (store.datasets.get, made.id),
        (store.datasets.get, "train"),
        (store.datasets.delete, made.id),
        (store.models.get, "smol"),
        (store.models.delete, "smol"),
        (store.deployments.get, deployment.id),
        (store.deployments.get, "bot"),
        (store.deployments.delete, deployment.id),
    ):
        with pytest.raises(NotFound):
            look(other_project, name)
    with pytest.raises(NotFound):
        store.deployments.update(other_project, deployment, {})
    assert store.datasets.list(other_project).items == []
    assert store.models.list(other_project) == [] and store.deployments.list(other_project) == []
    assert store.datasets.get(project, made.id) == made


def test_versions_of_a_family_are_counted_and_none_is_given_twice(store: Store, project: str) -> None:
    first = store.models.create(project, model("smol"))
    second = store.models.create(project, model("smol-2", family="smol"))
    assert [(one.family, one.version) for one in (first, second)] == [("smol", 1), ("smol", 2)]

    store.models.delete(project, "smol-2")
    third = store.models.create(project, model("smol-2", family="smol"))

    assert third.version == 3
    assert store.models.get(project, "smol@latest") == store.models.get(project, "smol@3") == third
    assert store.models.get(project, "smol@1") == first
    assert store.models.list(project, family="smol") == [first, third]
    for gone in ("smol@2", "smol@4", "smol@", "other@1", "smol@best"):
        with pytest.raises(NotFound):
            store.models.get(project, gone)
    named = store.models.create(project, model("smol@latest"))
    assert store.models.get(project, "smol@latest") == named


def test_an_alias_means_one_version_and_moves(store: Store, project: str) -> None:
    first, second = (store.models.create(project, model(name, family="smol")) for name in ("smol", "smol-2"))
    other = store.models.create(project, model("other"))
    store.models.update(project, "smol", aliases=["best", "production"])
    store.models.update(project, "other", aliases=["production"])

    assert store.models.update(project, "smol-2", aliases=["production"]).aliases == ["production"]

    assert store.models.get(project, "smol@production").id == second.id
    assert store.models.get(project, "smol@best").id == first.id
    assert store.models.get(project, "other@production").id == other.id
    assert store.models.get(project, "smol").aliases == ["best"]


def test_tags_are_replaced_and_metadata_merged(store: Store, project: str) -> None:
    store.models.create(project, model("smol", metadata={"source": "hub", "old": "1"}))

    store.models.update(project, "smol", tags=["b", "a", "b"], metadata={"old": None, "team": "x"})
    store.models.update(project, "smol")

    found = store.models.get(project, "smol")
    assert (found.tags, found.metadata) == (["a", "b"], {"source": "hub", "team": "x"})
    with pytest.raises(NotFound):
        store.models.update(project, "other", tags=[])


def test_a_model_knows_the_very_record_that_it_was_made_from(store: Store, project: str) -> None:
    base = store.models.create(project, model("b"))
    adapter = store.models.create(project, model("a", kind="adapter", base_model="b"))
    merged = store.models.create(project, model("m", kind="merged", base_model="b", config={"parent": "a"}))
    assert (base.parent_id, adapter.parent_id, merged.parent_id) == (None, base.id, adapter.id)

    store.models.delete(project, "a")
    store.models.create(project, model("a", kind="adapter", base_model="b"))

    assert store.models.get(project, "m").parent_id == adapter.id
    assert (store.models.by_id(project, adapter.id), store.models.by_id(project, base.id)) == (None, base)
    assert store.models.list(project, parent_id=adapter.id) == [merged]


def test_files_of_a_deleted_model_are_not_lost_track_of(store: Store, project: str) -> None:
    store.models.create(project, model("smol", uri="store://models/smol"))

    store.models.delete(project, "smol", "storage-1")

    assert store.discarded.due("storage-1", grace_seconds=0) == ["store://models/smol"]
    store.models.create(project, model("again", uri="store://models/smol"))
    assert store.discarded.due("storage-1", grace_seconds=0) == []


def test_whoever_uses_a_model_is_named(store: Store, project: str) -> None:
    store.models.create(project, model("b"))
    for name in ("a", "c"):
        store.models.create(project, model(name, kind="adapter", base_model="b"))
    store.deployments.create(project, name="bot", model_name="b", spec={})
    job, _ = store.jobs.create(project, kind=Kind.TRAIN, spec={})
    claim = store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1)
    assert claim is not None
    beside = {"kind": "adapter", "base_model": "b", "uri": "store://c", "digest": "d", "size_bytes": 1, "format": "x"}
    told = {"step": 1, "uri": "", "digest": "", "size_bytes": 0, "name": "a:ckpt-step-1", "model": beside}
    store.attempts.add_checkpoint(job.id, claim.attempt, **told)

    with pytest.raises(Conflict) as refused:
        store.models.delete(project, "b")
    for user in ("deployment 'bot'", "adapter 'a'", "adapter 'c'", "checkpoint 'a:ckpt-step-1'"):
        assert user in refused.value.message


def test_routes_are_a_projects_own_and_share_no_name_with_a_deployment(
    store: Store, project: str, other_project: str
) -> None:
    targets = [{"model": "a", "weight": 1.5}, {"model": "b", "weight": 0}]
    made, is_new = store.routes.put(project, "prod", targets)
    assert is_new and made.targets == targets and store.routes.list(other_project) == []
    again, is_new = store.routes.put(project, "prod", targets[:1])
    assert (is_new, again.targets, again.created_at) == (False, targets[:1], made.created_at)
    with pytest.raises(Conflict):
        store.deployments.create(project, name="prod", model_name="m", spec={})
    store.deployments.create(other_project, name="prod", model_name="m", spec={})
    with pytest.raises(Conflict):
        store.routes.put(other_project, "prod", targets)
    store.routes.delete(project, "prod")
    with pytest.raises(NotFound):
        store.routes.delete(project, "prod")


def test_presets_are_a_projects_own_and_are_replaced_whole(store: Store, project: str, other_project: str) -> None:
    made, is_new = store.presets.put(project, "exact", {"temperature": 0.0, "stop": ["\n"]}, "for facts")
    assert is_new and made.parameters == {"temperature": 0.0, "stop": ["\n"]} and made.description == "for facts"
    again, is_new = store.presets.put(project, "exact", {"top_k": 3})
    assert (is_new, again.parameters, again.description) == (False, {"top_k": 3}, None)
    assert again.created_at == made.created_at
    with pytest.raises(NotFound):
        store.presets.get(other_project, "exact")
    assert [preset.name for preset in store.presets.list(project)] == ["exact"] and not store.presets.list(
        other_project
    )
    store.presets.delete(project, "exact")
    with pytest.raises(NotFound):
        store.presets.delete(project, "exact")
