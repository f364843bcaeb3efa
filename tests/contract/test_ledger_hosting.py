"""Adapters on the replicas of their base: where one is put, what is told of it, how it is changed and taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared import happenings, schema
from shared.adapterfiles import SERVING, AdapterFiles
from shared.errors import Conflict, InvalidSpec
from shared.job import Job, Status
from shared.records import Deployment, NewModel, Replica
from shared.spec import DeploySpec
from shared.store import Store

NewJob = Callable[..., Job]
LLAMA = {"architectures": ["LlamaForCausalLM"]}
FILES: dict[str, Any] = {"uri": "store://m", "digest": "d", "size_bytes": 1, "format": "safetensors"}


@pytest.fixture
def models(store: Store, project: str) -> None:
    store.models.create(project, NewModel(name="smol", kind="base", config=LLAMA, **FILES))
    for number, rank in enumerate((8, 8, 64), 1):
        add(store, project, f"bot-{number}", rank=rank)


def add(store: Store, project: str, name: str, **files: Any) -> None:
    serving = {SERVING: AdapterFiles(**files).as_dict()}
    store.models.create(project, NewModel(name=name, kind="adapter", base_model="smol", config=serving, **FILES))


def deploy(store: Store, project: str, model: str, **given: Any) -> Deployment:
    spec = schema.load(DeploySpec, {"model": model, **given})
    return store.deployments.create(project, name=spec.name or model, model_name=model, spec=schema.to_wire(spec))


def ready(store: Store, **more: Any) -> Replica:
    replica = store.replicas.claim_next("w1", "store-1")
    assert replica is not None
    store.replicas.renew(
        replica.id, replica.attempt, status="ready", url="http://127.0.0.1:9", max_lora_rank=32, **more
    )
    return replica


@pytest.mark.usefixtures("models")
def test_an_adapter_is_put_on_the_replicas_of_its_base_and_is_ready_when_it_is_loaded(
    store: Store, project: str
) -> None:
    base = deploy(store, project, "smol")
    made = deploy(store, project, "bot-1", name="helper")

    assert (made.host_id, made.host_name, made.replicas, made.status) == (base.id, "smol", [], "pending")
    assert [(one.name, one.model_name, one.previous) for one in store.deployments.guests(base.id)] == [
        ("helper", "bot-1", None)
    ]
    replica = ready(store)
    assert store.deployments.get(project, "helper").status == "starting"
    store.replicas.renew(replica.id, replica.attempt, adapters=[], adapter_errors={"bot-1": "no such file"})
    broken = store.deployments.get(project, "helper")
    assert (broken.status, broken.error) == ("failed", "no such file")
    loaded = [happenings.adapter_loaded(replica, "bot-1", 0.5)]
    store.replicas.renew(replica.id, replica.attempt, adapters=["bot-1"], adapter_errors={}, events=loaded)
    for deployment in (base, made):
        last = store.deployment_events.list(project, deployment.id)[-1]
        assert (last.type, last.data["adapter"], last.replica_id) == ("adapter_loaded", "bot-1", replica.id)
    answers = store.deployments.get(project, "helper")
    assert (answers.status, answers.error) == ("ready", None)
    assert [one.status for one in store.deployments.list(project)] == ["ready", "ready"]
    assert store.replicas.release(replica.id, replica.attempt).adapters == []
    assert store.deployments.get(project, "helper").status == "pending"


@pytest.mark.usefixtures("models")
def test_what_does_not_fit_gets_replicas_of_its_own_and_says_why(store: Store, project: str) -> None:
    alone = deploy(store, project, "bot-2")
    assert alone.host_id is None and [one.status for one in alone.replicas] == ["pending"]
    assert alone.hosting["why"] == "it gets replicas of its own: no deployment serves its base 'smol'"
    # Its replicas hold the base: further adapters go there.
    assert deploy(store, project, "bot-1").host_name == "bot-2"

    large = deploy(store, project, "bot-3")
    assert large.host_id is None
    assert "takes adapters up to rank 32, and this has 64" in large.hosting["why"]
    with pytest.raises(InvalidSpec, match="rank 32") as raised:
        deploy(store, project, "bot-3", name="again", adapter_host="bot-2")
    assert raised.value.field == "adapter_host"
    with pytest.raises(InvalidSpec, match="did you mean 'bot-2'"):
        deploy(store, project, "bot-1", name="again", adapter_host="bot-22")
    with pytest.raises(InvalidSpec, match="is no adapter"):
        deploy(store, project, "smol", adapter_host="bot-2")
    own = deploy(store, project, "bot-1", name="again", adapter_host="own")
    assert own.host_id is None and "why" not in own.hosting


@pytest.mark.usefixtures("models")
def test_a_host_stays_as_long_as_it_has_guests(store: Store, project: str) -> None:
    base = deploy(store, project, "smol")
    deploy(store, project, "bot-1")
    with pytest.raises(Conflict, match="'bot-1'"):
        store.deployments.delete(project, "smol")
    with pytest.raises(Conflict, match="deployment 'bot-1'"):
        store.models.delete(project, "bot-1")

    assert store.deployments.delete(project, "bot-1").status == "stopped"
    assert store.deployments.guests(base.id) == []
    assert store.deployments.delete(project, "smol").status == "stopped"


@pytest.mark.usefixtures("models")
def test_a_new_adapter_takes_over_when_it_is_loaded(store: Store, project: str) -> None:
    deploy(store, project, "smol")
    deploy(store, project, "bot-1", name="bot")
    replica = ready(store, adapters=["bot-1"])

    def change(model: str) -> Deployment:
        seen = store.deployments.get(project, "bot")
        return store.deployments.update(project, seen, schema.to_wire(DeploySpec(model=model)), model)

    changed = change("bot-2")
    assert (changed.model_name, changed.generation, changed.status) == ("bot-2", 2, "ready")
    [guest] = store.deployments.guests(str(changed.host_id))
    assert (guest.model_name, guest.previous) == ("bot-2", "bot-1")
    # Of two changes at once the first was never loaded: what answers stays the one before.
    add(store, project, "bot-4", rank=4)
    assert store.deployments.guests(str(change("bot-4").host_id))[0].previous == "bot-1"
    store.replicas.renew(replica.id, replica.attempt, adapters=["bot-4"])
    assert store.deployments.guests(str(change("bot-1").host_id))[0].previous == "bot-4"
    with pytest.raises(InvalidSpec, match="rank 32"):
        change("bot-3")
    with pytest.raises(Conflict, match="under another name"):
        change("smol")

    # What the host is changed to must fit those that are on it.
    host = store.deployments.get(project, "smol")
    with pytest.raises(Conflict, match="'bot' is on the replicas of 'smol', which then takes no adapters"):
        store.deployments.update(project, host, {**host.spec, "enable_lora": False})
    assert store.deployments.update(project, host, {**host.spec, "max_num_seqs": 4}).generation == 2


@pytest.mark.usefixtures("models")
def test_what_a_training_made_is_put_on_its_base_when_that_was_to_follow(
    store: Store, project: str, running: NewJob
) -> None:
    base = deploy(store, project, "smol")
    job = running(then=[{"kind": "deploy", "spec": schema.to_wire(DeploySpec(model="$model"))}])
    serving = {SERVING: AdapterFiles(rank=8).as_dict()}
    new = NewModel(name="made", kind="adapter", base_model="smol", config=serving, **FILES)
    store.attempts.finish(job.id, 1, status=Status.SUCCEEDED, models=[new])

    assert store.deployments.get(project, "made").host_id == base.id
