"""Parts of the inference worker that need no vLLM: its log and metrics read, its model's files found."""

from __future__ import annotations

import json
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from inference_worker import cpu_kernels, files
from inference_worker.counting import Counts, ReplicaCollector, Standing
from inference_worker.engine import Engine, Numbers, parse
from inference_worker.replica import Life, Worker
from inference_worker.starting import BackOff, address
from shared import schema, vllm_log
from shared.artifact import ArtifactStore
from shared.errors import ChildFailed, ModelNotLoaded, NotFound
from shared.metrics.counted import Metrics
from shared.records import NewModel
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.store import Store
from tests.platform import wait_until
from tests.unit.upstream import Upstream, closed_port, serving

ROOT = Path(__file__).resolve().parents[2]
#: As vLLM 0.32 writes it when a checkpoint lacks weights; shortened.
LOG = """\
(APIServer pid=1) WARNING 11-25 03:22:33 [system.py:9] may cause `OSError: [Errno 24] Too many`. Use ulimit -n
(EngineCore pid=7) ERROR 11-25 03:22:33 [core.py:1] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-25 03:22:33 [core.py:1] ValueError: Following weights were not initialized
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
nanobind: leaked 514 functions!
 - leaked function "create_cos"
"""
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="smol"} 2.0
vllm:num_requests_running{engine="1",model_name="smol"} 1.0
vllm:num_requests_waiting{engine="0",model_name="smol"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smol",reason="capacity"} 4.0
vllm:generation_tokens_total{engine="0",model_name="smol"} 1.5e+02
vllm:prompt_tokens_total{engine="0",model_name="smol"} 30.0
"""


def test_the_cause_is_the_first_error_and_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "vllm.log"
    path.write_text(LOG)
    assert vllm_log.cause(path) == "ValueError: Following weights were not initialized"
    assert vllm_log.tail(path).endswith("See root cause above.")


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert vllm_log.cause(tmp_path / "vllm.log") is None
    assert vllm_log.tail(tmp_path / "vllm.log") == ""


def test_the_log_before_is_kept_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "vllm.log"
    for text in ("one", "two"):
        path.write_text(text)
        vllm_log.rotate(path)
    assert [p.name for p in tmp_path.iterdir()] == ["vllm.log.1"]
    assert (tmp_path / "vllm.log.1").read_text() == "two"


def test_the_load_is_what_runs_and_what_waits_on_all_engines() -> None:
    numbers = parse(METRICS)
    assert numbers.load == 7
    assert (numbers.generated_tokens, numbers.prompt_tokens) == (150, 30)


def test_tokens_are_added_up_over_restarts_and_replicas_are_counted_by_status() -> None:
    metrics = Metrics(CollectorRegistry())
    tokens = Counts(metrics)
    tokens.add("smol", before=Numbers(), after=Numbers(generated_tokens=10))
    tokens.add("smol", before=Numbers(generated_tokens=10), after=Numbers(generated_tokens=25))
    tokens.add("smol", before=Numbers(), after=Numbers(generated_tokens=5))
    numbers = Numbers(num_waiting=3, kv_cache_usage=0.25)
    held = [
        Standing(status=status, model="smol", replica_id=f"r{number}", numbers=numbers)
        for number, status in enumerate(("ready", "ready", "failed"))
    ]
    metrics.registry.register(ReplicaCollector(lambda: held))

    page = generate_latest(metrics.registry).decode()
    assert 'tunesmith_generated_tokens_total{model="smol"} 30.0' in page
    assert 'tunesmith_replicas{status="ready"} 2.0' in page
    assert 'tunesmith_replicas{status="starting"} 0.0' in page
    assert 'tunesmith_replica_requests_waiting{model="smol",replica_id="r1"} 3.0' in page
    assert 'tunesmith_replica_kv_cache_usage_ratio{model="smol",replica_id="r0"} 0.25' in page
    assert 'replica_id="r2"' not in page


def test_an_engine_that_is_not_there_is_not_healthy() -> None:
    engine = Engine(f"http://127.0.0.1:{closed_port()}", "k")
    assert not engine.healthy()
    assert engine.numbers() is None


def test_a_warm_up_that_is_refused_says_what_vllm_said() -> None:
    refusing = Upstream(status=400, body=b'{"error":{"message":"no such model"}}')
    with serving(refusing) as upstream, pytest.raises(ChildFailed, match="no such model"):
        Engine(upstream.url, "k").warm_up("smol")
    assert json.loads(upstream.requests[0]["body"])["model"] == "smol"


def test_an_adapter_that_is_refused_says_what_vllm_said() -> None:
    why = b'{"error":{"message":"LoRA rank 64 is greater\\n than max_lora_rank 32."}}'
    refusing = Upstream(body=b'{"data":[]}', answers={"/v1/load_lora_adapter": (500, why)})
    with serving(refusing) as upstream, pytest.raises(ModelNotLoaded, match=r"'tuned'.*rank 64 is greater than"):
        Engine(upstream.url, "k").load_adapter("tuned", Path("/models/tuned"))
    told = [json.loads(request["body"]) for request in upstream.requests if request["path"] == "/v1/load_lora_adapter"]
    assert told == [{"lora_name": "tuned", "lora_path": "/models/tuned"}]


def test_an_adapter_that_is_loaded_is_not_loaded_again() -> None:
    models = [{"id": "smol", "root": "/models/smol"}, {"id": "tuned", "root": "/models/tuned", "parent": "smol"}]
    with serving(Upstream(body=json.dumps({"data": models}).encode())) as upstream:
        engine = Engine(upstream.url, "k")
        assert engine.adapters() == {"tuned": "/models/tuned"}
        engine.load_adapter("tuned", Path("/models/tuned"))
    assert {request["path"] for request in upstream.requests} == {"/v1/models"}


def test_an_adapter_that_was_not_there_is_unloaded_all_the_same() -> None:
    with serving(Upstream(status=404, body=b'{"error":{"message":"cannot be found"}}')) as upstream:
        Engine(upstream.url, "k").unload_adapter("tuned")
    assert json.loads(upstream.requests[0]["body"]) == {"lora_name": "tuned"}
    with pytest.raises(ModelNotLoaded, match="does not answer"):
        Engine(f"http://127.0.0.1:{closed_port()}", "k").unload_adapter("tuned")


def test_an_interpreter_is_asked_whether_it_has_our_kernels_for_cpus(tmp_path: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.platform_plugins"]
    info = tmp_path / "ours-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    assert not cpu_kernels.are_installed(str(python))
    (info / "entry_points.txt").write_text(f"[vllm.platform_plugins]\n{next(iter(declared))} = ours:kernels\n")
    assert cpu_kernels.are_installed(str(python))


def test_a_free_port_can_be_listened_on() -> None:
    with serving(Upstream()) as upstream:
        assert address("127.0.0.1").port not in (0, upstream.port)


def test_an_engine_is_told_by_its_number_where_its_host_has_a_name() -> None:
    assert address("localhost").url.startswith(("http://127.0.0.1:", "http://[::1]:"))


def test_a_host_that_is_another_machine_is_told_with_its_setting() -> None:
    with pytest.raises(OSError, match=r"no address of '192\.0\.2\.1' \(TUNESMITH_REPLICA_HOST\)"):
        address("192.0.2.1")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    settings = Settings(home=tmp_path, keeper_seconds=5.0, renew_seconds=0.2)
    store = Store(settings.database_url)
    store.migrate()
    return Worker(
        store=store,
        artifacts=ArtifactStore(settings.storage_url, settings.run_dir / "cache"),
        settings=settings,
        counts=Counts(Metrics(CollectorRegistry())),
        gpus=(),
        stopping=threading.Event(),
    )


def register(
    worker: Worker, folder: Path, name: str, kind: str = "base", base_model: str | None = None, **more: Any
) -> None:
    sealed = worker.artifacts.put_folder(folder, worker.artifacts.uri("models", name))
    new = NewModel(
        name=name, kind=kind, base_model=base_model, uri=sealed.uri, digest=sealed.digest,
        size_bytes=sealed.size_bytes, **{"format": "safetensors"} | more,
    )  # fmt: skip
    worker.store.models.create(worker.store.projects.default().id, new)


def folder_with(tmp_path: Path, name: str, content: object) -> Path:
    folder = tmp_path / f"folder-{name}"
    folder.mkdir()
    (folder / name).write_text(json.dumps(content))
    return folder


def bring(worker: Worker, model: str, tmp_path: Path, **spec: str) -> files.Files:
    project_id = worker.store.projects.default().id
    wanted = DeploySpec(model=model, **spec)  # type: ignore[arg-type]
    return files.bring(worker.store, worker.artifacts, worker.settings, project_id, model, wanted, tmp_path)


def test_an_adapter_comes_with_its_base_and_its_largest_rank(worker: Worker, tmp_path: Path) -> None:
    register(worker, folder_with(tmp_path, "config.json", {"max_position_embeddings": 512}), "base")
    config = {"r": 8, "rank_pattern": {"q_proj": 24}}
    register(worker, folder_with(tmp_path, "adapter_config.json", config), "tuned", "adapter", "base")

    found = bring(worker, "tuned", tmp_path)
    assert found.model.endswith("models/base") and found.context_length == 512
    assert found.adapter is not None and found.adapter.name == "tuned" and found.adapter_rank == 24


def test_a_named_template_becomes_a_file_and_none_means_the_models_own(worker: Worker, tmp_path: Path) -> None:
    register(worker, folder_with(tmp_path, "config.json", {"text_config": {"max_position_embeddings": 9}}), "base")
    assert bring(worker, "base", tmp_path).chat_template is None
    assert bring(worker, "base", tmp_path).context_length == 9
    written = bring(worker, "base", tmp_path, template="qwen").chat_template
    assert written is not None and "im_start" in written.read_text()


def test_an_adapter_is_asked_and_ends_as_it_was_trained(worker: Worker, tmp_path: Path) -> None:
    register(worker, folder_with(tmp_path, "config.json", {}), "base")
    folder = folder_with(tmp_path, "adapter_config.json", {"r": 8})
    (folder / "chat_template.jinja").write_text("trained")
    (folder / "generation_config.json").write_text("{}")
    register(worker, folder, "tuned", "adapter", "base")

    found = bring(worker, "tuned", tmp_path)
    assert found.adapter is not None and found.generation == found.adapter
    assert found.chat_template is not None and found.chat_template.read_text() == "trained"
    named = bring(worker, "tuned", tmp_path, template="qwen").chat_template
    assert named is not None and "im_start" in named.read_text()


def living(worker: Worker, name: str, back_off: BackOff | None = None) -> tuple[str, threading.Thread]:
    """A replica of a model in a thread of its own, and its project."""
    project_id = worker.store.projects.default().id
    spec = schema.to_wire(DeploySpec(model=name))
    worker.store.deployments.create(project_id, name=name, model_name=name, spec=spec)
    replica = worker.store.replicas.claim_next("worker", None)
    assert replica is not None
    thread = threading.Thread(target=Life(replica, worker, back_off).live)
    thread.start()
    return project_id, thread


def test_a_model_that_is_gone_is_told_by_its_name(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'gone'"):
        bring(worker, "gone", tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "'gone'"),
        ("floats", "in format fp8, which vLLM serves on NVIDIA"),
        ("two-bits", "in format gptq (2 bits), which vLLM serves on no machine"),
    ],
)
def test_a_replica_that_cannot_start_says_why_in_its_row_and_is_stopped_when_that_is_wanted(
    name: str, why: str, worker: Worker, tmp_path: Path
) -> None:
    files = folder_with(tmp_path, "config.json", {})
    register(worker, files, "floats", "quantized", format="fp8")
    register(worker, files, "two-bits", "quantized", format="gptq", config={"quantization": {"num_bits": 2}})
    project_id, thread = living(worker, name)
    while worker.store.deployments.get(project_id, name).status != "failed":
        thread.join(0.05)
    [row] = worker.store.replicas.list(project_id)
    worker.store.deployments.delete(project_id, name)
    thread.join(5)

    assert row.error is not None and why in row.error
    assert not thread.is_alive()
    assert [row.status for row in worker.store.replicas.list(project_id)] == ["stopped"]


def test_a_replica_that_never_gets_ready_is_tried_ever_less_often(worker: Worker) -> None:
    quick = BackOff(first_seconds=0.01, most_seconds=0.08, steady_seconds=0.02)
    project_id, thread = living(worker, "gone", quick)
    deployment = worker.store.deployments.get(project_id, "gone")

    def pauses() -> list[float]:
        told = worker.store.deployment_events.list(project_id, deployment.id)
        return [event.data["retry_seconds"] for event in told if event.type == "failed"]

    wait_until(lambda: len(pauses()) >= 6, 10, "it was tried six times")
    worker.store.deployments.delete(project_id, "gone")
    thread.join(5)
    assert pauses()[:6] == [0.01, 0.02, 0.04, 0.08, 0.08, 0.08]


def test_only_a_process_that_was_ready_for_a_while_ends_a_row_of_failures() -> None:
    back_off = BackOff()
    assert [back_off.pause(ready_seconds) for ready_seconds in (0.0, 0.0, 299.0, 0.0)] == [2, 4, 8, 16]
    assert [back_off.pause(ready_seconds) for ready_seconds in (301.0, 0.0)] == [2, 4]
    assert [back_off.pause(0.0) for _ in range(2000)][-1] == 300
