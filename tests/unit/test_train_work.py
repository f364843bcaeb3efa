"""What a training asks of its children, and what it publishes, from real records in a real ledger and storage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import folder, nodes, schema
from shared.artifact import ArtifactStore
from shared.errors import InvalidSpec, NotAllowed, NotFound
from shared.job import Kind
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import TrainSpec
from shared.store import Store
from shared.work import Finish, Run
from trainer_worker import deepspeed, raytrain, torchrun
from trainer_worker.work import TrainWork

ADAPTER = "ft:tiny:local::12345678"
DONE = {
    "output": "output", "metrics": {"loss": 0.5}, "num_steps": 10, "num_tokens": 1000, "train_loss": 0.7,
}  # fmt: skip


class Ledger:
    """A base, another base, an adapter of the first, and a dataset."""

    def __init__(self, settings: Settings, store: Store, artifacts: ArtifactStore, scratch: Path):
        self.settings, self.store, self.artifacts, self._scratch = settings, store, artifacts, scratch
        self.project = store.projects.default().id
        self.add_model("tiny", kind="base")
        self.add_model("other", kind="base")
        self.add_model(ADAPTER, kind="adapter", base_model="tiny")
        self.add_dataset("facts")

    def add_dataset(self, name: str) -> None:
        file = self._scratch / f"{name}.jsonl"
        file.write_text("{}\n")
        sealed = self.artifacts.put_file(file, self.artifacts.uri("datasets", name))
        self.store.datasets.create(
            self.project, name=name, filename=file.name, purpose="fine-tune", format="alpaca", columns={},
            num_rows=1, size_bytes=sealed.size_bytes, digest=sealed.digest, uri=sealed.uri,
        )  # fmt: skip

    def add_model(self, name: str, **members: Any) -> None:
        files = self._scratch / f"model-{name.replace(':', '-')}"
        files.mkdir()
        (files / "config.json").write_text("{}")
        sealed = self.artifacts.put_folder(files, self.artifacts.uri("models", files.name))
        sealing = {"uri": sealed.uri, "digest": sealed.digest, "size_bytes": sealed.size_bytes}
        self.store.models.create(self.project, NewModel(name=name, format="safetensors", **sealing, **members))

    def claim(self, suffix: str | None = None, **body: Any) -> Run:
        spec = schema.to_wire(schema.load(TrainSpec, {"model": "tiny", "dataset": "facts", **body}))
        self.store.jobs.create(self.project, kind=Kind.TRAIN, spec=spec, request={"suffix": suffix})
        claim = self.store.attempts.claim_next(
            worker_id="w", kinds=[Kind.TRAIN], num_devices=64, storage_id=self.artifacts.storage_id()
        )
        assert claim is not None
        return Run(
            job=claim.job, attempt=claim.attempt, folder=folder.make(self.settings, claim.job, claim.attempt),
            devices=("cpu",), settings=self.settings, store=self.store, artifacts=self.artifacts,
        )  # fmt: skip


def finished(run: Run) -> Finish:
    folder.write_run_json(run, TrainWork().run_json(run))
    return TrainWork().finish(run, DONE)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    settings = Settings(home=tmp_path / "home", import_roots=[tmp_path / "imports"], hub=False)
    with Store(settings.database_url) as store:
        store.migrate()
        yield Ledger(settings, store, ArtifactStore(settings.storage_url, tmp_path / "cache"), tmp_path)


def test_inputs_are_resolved_to_local_paths(ledger: Ledger) -> None:
    told = TrainWork().run_json(ledger.claim(eval_dataset="facts"))

    assert (Path(told["model_path"]) / "config.json").is_file() and told["adapter_path"] is None
    assert told["base_name"] == "tiny"
    assert [Path(one["path"]).read_text() for one in told["datasets"]] == ["{}\n"]
    assert told["datasets"] == told["eval_datasets"]
    assert told["datasets"][0]["format"] == "alpaca" and told["datasets"][0]["digest"].startswith("sha256:")


def test_a_described_dataset_is_told_with_how_it_is_read(ledger: Ledger) -> None:
    folder = ledger.settings.import_roots[0] / "sets"
    folder.mkdir(parents=True)
    (folder / "pairs.json").write_text("[]")
    entry = {"file_name": "pairs.json", "ranking": True, "num_samples": 5}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))

    told = TrainWork().run_json(ledger.claim(dataset=["pairs", "facts"], dataset_dir="sets"))

    described, uploaded = told["datasets"]
    assert (described["path"], described["format"]) == (str(folder / "pairs.json"), "alpaca")
    assert (described["columns"]["ranking"], described["columns"]["num_samples"]) == (True, 5)
    assert described["columns"]["columns"]["chosen"] == "chosen"
    assert uploaded["name"] == "facts"


@pytest.mark.parametrize(
    ("body", "whole", "adapter"),
    [
        ({"reward_model": ADAPTER}, None, ADAPTER),
        ({"reward_model": "other", "reward_model_type": "full"}, "other", None),
        ({"reward_model": "tiny", "reward_model_type": "full", "reward_model_adapters": ADAPTER}, "tiny", ADAPTER),
    ],
)
def test_a_reward_model_is_resolved_to_local_paths(
    ledger: Ledger, body: dict[str, Any], whole: str | None, adapter: str | None
) -> None:
    told = TrainWork().run_json(ledger.claim(stage="ppo", **body))["reward"]

    for name, path in ((whole, told["model_path"]), (adapter, told["adapter_path"])):
        assert (path is None) == (name is None)
        assert name is None or path.endswith(name.replace(":", "-"))


def test_other_stages_have_no_reward_model(ledger: Ledger) -> None:
    assert TrainWork().run_json(ledger.claim(reward_model=ADAPTER))["reward"] is None


@pytest.mark.parametrize("body", [{"model": ADAPTER}, {"adapter_name_or_path": ADAPTER}])
def test_training_on_an_adapter_goes_on_with_it_on_its_base(ledger: Ledger, body: dict[str, Any]) -> None:
    told = TrainWork().run_json(ledger.claim(**body))

    assert told["base_name"] == "tiny" and told["adapter_path"] != told["model_path"]
    assert Path(told["adapter_path"]).is_dir()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "other", "adapter_name_or_path": ADAPTER}, "adapter_name_or_path"),
        ({"model": ADAPTER, "adapter_name_or_path": ADAPTER}, "model_name_or_path"),
        ({"model": ADAPTER, "finetuning_type": "full"}, "finetuning_type"),
    ],
)
def test_an_adapter_that_cannot_be_trained_on_is_refused(ledger: Ledger, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        TrainWork().run_json(ledger.claim(**body))

    assert raised.value.field == field


def test_code_of_a_model_runs_only_where_the_administrator_listed_it(ledger: Ledger) -> None:
    run = ledger.claim(model=ADAPTER, trust_remote_code=True)
    listed = replace(run, settings=replace(run.settings, trust_remote_code=["tiny"]))

    with pytest.raises(NotAllowed) as raised:
        TrainWork().run_json(run)
    assert raised.value.field == "trust_remote_code"
    assert TrainWork().run_json(listed)["base_name"] == "tiny"


def test_a_dataset_that_has_gone_is_not_found(ledger: Ledger) -> None:
    run = ledger.claim()
    ledger.store.datasets.delete(ledger.project, "facts")

    with pytest.raises(NotFound):
        TrainWork().run_json(run)


def test_data_is_prepared_without_devices_and_trained_under_torchrun(ledger: Ledger) -> None:
    prepare, train = TrainWork().phases(ledger.claim(num_processes=2))

    assert (prepare.name, prepare.needs_devices, prepare.argv[2]) == ("prepare", False, "trainer_worker.child.prepare")
    assert (train.name, train.needs_devices) == ("train", True)
    assert train.argv[1:3] == ["-m", "trainer_worker.child.launch"]
    assert train.argv[train.argv.index("--nproc-per-node") + 1] == "2"
    assert train.argv[train.argv.index("--max-restarts") + 1] == "0"
    assert train.env["DS_ACCELERATOR"] == "cpu" and train.env["HF_HUB_OFFLINE"] == "1"


def test_trackers_get_their_keys_in_the_environment_of_the_training_alone(ledger: Ledger) -> None:
    run = ledger.claim(report_to="wandb", wandb_api_key="of-the-job", use_swanlab=True)
    run = replace(run, settings=replace(run.settings, swanlab_api_key="of-the-server", wandb_api_key="other"))
    run = replace(run, secrets={"wandb_api_key": "of-the-job"})

    prepare, train = TrainWork().phases(run)
    env = folder.environment(run, train)
    told = TrainWork().run_json(run)

    assert env["WANDB_API_KEY"] == "of-the-job" and env["SWANLAB_API_KEY"] == "of-the-server"
    assert "SWANLAB_API_KEY" not in folder.environment(run, prepare)
    both = ["swanlab", "wandb"]
    assert told["tracking"] == {"trackers": both, "remote": both, "name": None, "tags": [], "told_until": -1}
    assert "of-the" not in json.dumps(told, default=str)


def test_a_training_through_ray_has_a_driver_instead_of_torchrun(ledger: Ledger) -> None:
    run = ledger.claim(use_ray=True, ray_num_workers=2)
    folder.write_run_json(run, {})

    _, train = TrainWork().phases(run)
    address = replace(run, settings=replace(run.settings, ray_address="ray://head:10001"))
    _, away = TrainWork().phases(address)

    assert train.argv[1:] == ["-m", "trainer_worker.child.ray_driver", str(run.folder)]
    assert away.argv[-1] == "ray://head:10001"
    assert json.loads((run.folder / "run.json").read_text())["num_processes"] == 2
    # Its own Ray is heard by this machine only, and by nobody who has not its token; a cluster has its own ways.
    assert train.env["RAY_AUTH_MODE"] == "token" and len(train.env["RAY_AUTH_TOKEN"]) == 64
    assert train.env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0" and train.env["DS_ACCELERATOR"] == "cpu"
    assert "RAY_AUTH_TOKEN" not in away.env and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in away.env


def test_ray_init_is_told_the_jobs_devices_and_only_what_a_client_may_say() -> None:
    given = {"num_cpus": 8, "log_to_driver": True, "object_store_memory": None}
    body = {"model": "m", "dataset": "d", "use_ray": True, "ray_num_workers": 2, "ray_init_kwargs": given}
    spec = schema.load(TrainSpec, body)

    own = raytrain.own(spec, num_processes=2, num_gpus=2, temp_dir="/tmp/x")
    cluster = raytrain.cluster(spec, "auto", {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret", "PATH": "/bin"})

    assert (own["address"], own["num_cpus"], own["num_gpus"], own["log_to_driver"]) == ("local", 8, 2, True)
    assert (own["include_dashboard"], own["_node_ip_address"]) == (False, "127.0.0.1")
    assert own["object_store_memory"] == raytrain.STORE_BYTES
    assert cluster["runtime_env"] == {"env_vars": {"HF_HUB_OFFLINE": "1"}}
    assert cluster["log_to_driver"] is True and "num_cpus" not in cluster
    assert raytrain.unheeded(spec) == ["num_cpus"]
    keys = {"HF_TOKEN": "a", "WANDB_API_KEY": "b"}
    assert raytrain.secrets(keys | {"PATH": "/bin"}) == keys


def test_what_was_trained_is_published_under_openais_form_of_name(ledger: Ledger) -> None:
    run = ledger.claim(suffix="mine", lora_rank=4, output_dir="saves/mine/sft")
    (run.output / "adapter_model.safetensors").write_text("weights")
    (run.output / "adapter_config.json").write_text('{"r": 8}')
    (run.output / "chat_template.jinja").write_text("the base's own: no template was named")

    finish = finished(run)

    (model,) = finish.models
    # As the files say, not the spec: PiSSA publishes twice the rank that it trained.
    assert (model.config["serving"]["rank"], model.config["serving"]["chat_template"]) == (8, None)
    assert model.name == f"ft:tiny:local:mine:{run.job.id[-8:]}" == finish.result["model"]
    assert (model.kind, model.base_model, model.job_id) == ("adapter", "tiny", run.job.id)
    assert ledger.artifacts.verify(model.uri).digest == model.digest
    assert model.config["lora_rank"] == 4 and model.config["metrics"] == {"loss": 0.5}
    # Files of LF name it so.
    assert model.config["output_dir"] == "saves/mine/sft"


def test_all_adapters_but_the_last_are_merged_and_all_for_a_new_one(ledger: Ledger) -> None:
    two = f"{ADAPTER},{ADAPTER}"
    going_on = TrainWork().run_json(ledger.claim(adapter_name_or_path=two))
    new = TrainWork().run_json(ledger.claim(adapter_name_or_path=two, create_new_adapter=True))

    assert len(going_on["merged_paths"]) == 1 and going_on["adapter_path"] == going_on["merged_paths"][0]
    assert len(new["merged_paths"]) == 2 and new["adapter_path"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"adapter_name_or_path": ADAPTER, "create_new_adapter": True},
        {"model": ADAPTER, "create_new_adapter": True},
        {"adapter_name_or_path": f"{ADAPTER}, {ADAPTER}"},
        {"add_tokens": "<a>"},
    ],
)
def test_an_adapter_beside_a_changed_base_becomes_a_whole_model(ledger: Ledger, body: dict[str, Any]) -> None:
    run = ledger.claim(**body)
    (run.output / "model.safetensors").write_text("weights")

    (model,) = finished(run).models

    assert TrainWork().run_json(run)["makes"] == model.kind == "merged" and model.base_model == "tiny"


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_a_whole_model_is_no_adapter(ledger: Ledger, method: str) -> None:
    run = ledger.claim(finetuning_type=method)
    (run.output / "model.safetensors").write_text("weights")

    (model,) = finished(run).models

    assert model.kind == "merged" and "lora_rank" not in model.config


def test_nodes_meet_at_an_address_through_an_interface_of_their_own() -> None:
    argv = torchrun.train_argv("python", "a", num_processes=2, port=4711, address="10.0.0.7", node_rank=1, num_nodes=3)
    told = dict(zip(argv[3::2], argv[4::2], strict=False))

    assert (told["--nnodes"], told["--node-rank"], told["--nproc-per-node"]) == ("3", "1", "2")
    assert (told["--master-addr"], told["--master-port"], told["--max-restarts"]) == ("10.0.0.7", "4711", "0")
    assert torchrun.network(Settings(), "127.0.0.1", "") == {}
    assert torchrun.network(Settings(), "10.0.0.7", "eth1") == {"GLOO_SOCKET_IFNAME": "eth1"}
    set_by_hand = torchrun.network(Settings(node_interface="ib0"), "10.0.0.7", "ib0")
    assert set_by_hand == {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "ib0"}


def test_a_machine_finds_its_address_and_the_interface_that_has_it() -> None:
    postgres = {"database_url": "postgresql://u:p@127.0.0.1:5432/l"}

    assert nodes.address(Settings()) == "127.0.0.1", "SQLite means one machine"
    assert nodes.address(Settings(node_address="10.0.0.7")) == "10.0.0.7"
    found = nodes.address(Settings(**postgres))
    assert found == nodes.LOOPBACK or not found.startswith("127.")
    assert nodes.interface(Settings(), "127.0.0.1") == "lo"
    assert nodes.interface(Settings(), "192.0.2.1") == "", "an address of documentation, of no machine"
    assert nodes.interface(Settings(node_interface="ib0"), "192.0.2.1") == "ib0"


def test_cores_are_shared_among_processes() -> None:
    env = torchrun.environment(Settings(), devices=("GPU-1", "GPU-2"), num_processes=2, num_cores=9)

    assert env["OMP_NUM_THREADS"] == "4"
    assert "DS_ACCELERATOR" not in env and "HF_HUB_OFFLINE" not in env


def deepspeed_config(device: str = "cpu", bf16: bool = False, **body: Any) -> dict[str, Any]:
    spec = schema.load(TrainSpec, {"model": "m", "dataset": "d", **body})
    return deepspeed.config(spec, num_processes=4, device=device, bf16=bf16)


@pytest.mark.parametrize("body", [{"zero_stage": 2}, {"deepspeed": "examples/deepspeed/ds_z3_config.json"}])
def test_deepspeed_gets_numbers_where_the_spec_has_them(body: dict[str, Any]) -> None:
    made = deepspeed_config(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_grad_norm=0.5, **body)

    assert made["train_micro_batch_size_per_gpu"] == 2 and made["gradient_accumulation_steps"] == 3
    assert made["train_batch_size"] == 24 and made["gradient_clipping"] == 0.5
    assert made["bf16"] == {"enabled": False} and made["fp16"]["enabled"] is False
    left = {key for key, value in made["zero_optimization"].items() if value == "auto"}
    assert left <= deepspeed.BY_WIDTH
    assert "auto" not in made.values()


@pytest.mark.parametrize(
    ("body", "stage", "optimizer", "params"),
    [
        ({"zero_stage": 0}, 0, None, None),
        ({"zero_stage": 1}, 1, None, None),
        ({"zero_stage": 1, "zero_offload": "optimizer"}, 1, "cpu", None),
        ({"zero_stage": 2}, 2, None, None),
        ({"zero_stage": 2, "zero_offload": "optimizer"}, 2, "cpu", None),
        ({"zero_stage": 3}, 3, None, None),
        ({"zero_stage": 3, "zero_offload": "optimizer"}, 3, "cpu", None),
        ({"zero_stage": 3, "zero_offload": "optimizer+params"}, 3, "cpu", "cpu"),
        ({"deepspeed": "examples/deepspeed/ds_z0_config.json"}, 0, None, None),
        ({"deepspeed": "ds_z2_config.json"}, 2, None, None),
        ({"deepspeed": "ds_z2_offload_config.json"}, 2, "cpu", None),
        ({"deepspeed": "ds_z3_config.json"}, 3, None, None),
        ({"deepspeed": "ds_z3_offload_config.json"}, 3, "cpu", "cpu"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, 1, None, None),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}}, 2, "cpu", None),
    ],
)
def test_the_engine_shares_and_offloads_what_the_spec_says(
    body: dict[str, Any], stage: int, optimizer: str | None, params: str | None
) -> None:
    for device, is_pinned in (("cuda", True), ("cpu", False)):
        made = deepspeed_config(device=device, **body)
        zero = made["zero_optimization"]
        offloaded = {name: zero.get(name) for name in ("offload_optimizer", "offload_param")}
        assert zero["stage"] == stage
        assert [place and place["device"] for place in offloaded.values()] == [optimizer, params]
        assert all(place.get("pin_memory", is_pinned) is is_pinned for place in offloaded.values() if place)
        assert made["zero_force_ds_cpu_optimizer"] is False and made["zero_allow_untested_optimizer"] is True
        assert made == deepspeed_config(device=device, **body)


@pytest.mark.parametrize(
    ("preset", "body"),
    [
        ("ds_z2_offload_config.json", {"zero_stage": 2, "zero_offload": "optimizer"}),
        ("ds_z3_offload_config.json", {"zero_stage": 3, "zero_offload": "optimizer+params"}),
    ],
)
def test_an_offload_beside_a_stage_is_the_preset_of_that_name(preset: str, body: dict[str, Any]) -> None:
    assert deepspeed_config(deepspeed=preset) == deepspeed_config(**body)


def test_offloading_pins_no_memory_and_overlaps_nothing_on_a_cpu() -> None:
    given = {"zero_optimization": {
        "stage": 2, "overlap_comm": True, "offload_optimizer": {"device": "cpu", "pin_memory": True},
    }}  # fmt: skip

    on_cpu = deepspeed_config(deepspeed=given)["zero_optimization"]
    on_gpu = deepspeed_config(deepspeed=given, device="cuda")["zero_optimization"]

    assert on_cpu["overlap_comm"] is False and on_cpu["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert on_gpu["overlap_comm"] is True and on_gpu["offload_optimizer"]["pin_memory"] is True


def test_what_the_spec_says_replaces_what_the_configuration_says_and_is_told() -> None:
    given = {"zero_optimization": {"stage": 2}, "gradient_clipping": 5.0, "optimizer": {"type": "Adam"}}
    spec = schema.load(TrainSpec, {"model": "m", "dataset": "d", "deepspeed": given})

    made = deepspeed.config(spec, num_processes=1, device="cpu", bf16=True)

    assert made["gradient_clipping"] == 1.0 and "optimizer" not in made and made["bf16"] == {"enabled": True}
    assert deepspeed.replaced(spec) == ["gradient_clipping", "optimizer"]
    assert deepspeed.replaced(replace(spec, distributed=replace(spec.distributed, deepspeed=None))) == []
