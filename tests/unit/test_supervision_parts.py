"""The parts of supervision that need neither broker nor worker: sweep, catalog, queue, broker's configuration, logs."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared import broker, catalog, devices, interpreters, logs
from shared.artifact import ArtifactStore
from shared.errors import NotFound, Unavailable
from shared.job import MAX_LOST_ATTEMPTS, Kind, Status
from shared.metrics.counted import Metrics, Shared
from shared.metrics.ledger import LedgerCollector
from shared.queue import Queue
from shared.records import NewModel
from shared.settings import Settings
from shared.store import Store
from shared.sweep import FORGET_LEASES, Sweep, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class NoQueue(Queue):
    """Remembers what would be sent; as deep as told."""

    def __init__(self, depth: int | None) -> None:
        self._depth = depth
        self.sent: list[str] = []

    def send(self, job_id: str, kind: str) -> bool:
        self.sent.append(str(kind))
        return True

    def depth(self, kind: str) -> int | None:
        return self._depth


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "imports" / "model").mkdir(parents=True)
    return Settings(home=tmp_path / "home", import_roots=[tmp_path / "imports"])


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with Store(settings.database_url) as store:
        store.migrate()
        yield store


@pytest.fixture
def project(store: Store) -> str:
    return store.projects.default().id


def claim(store: Store) -> int:
    claimed = store.attempts.claim_next(worker_id="w", kinds=[Kind.TRAIN], num_devices=1, storage_id="s")
    assert claimed is not None
    return claimed.attempt


def test_a_beat_that_stands_still_grows_old_and_one_that_moves_does_not() -> None:
    clock = Clock()
    watch = Watch(clock)
    assert watch.ages_seconds([("a", 1), ("b", 1)]) == {"a": 0, "b": 0}
    clock.now += 7
    assert watch.ages_seconds([("a", 1), ("b", 2)]) == {"a": 7, "b": 0}
    clock.now += 1
    assert watch.ages_seconds([("b", 2)]) == {"b": 1}
    assert watch.ages_seconds([("a", 1)]) == {"a": 0}, "who was away is seen anew"


def test_the_sweep_takes_a_job_only_after_a_whole_lease(store: Store, settings: Settings, project: str) -> None:
    clock = Clock()
    sweep = Sweep(store, settings, NoQueue(0), Metrics(CollectorRegistry()))
    sweep._jobs = Watch(clock)
    job, _ = store.jobs.create(project, kind="train", spec={"schema_version": 1})
    attempt = claim(store)

    sweep.sweep()
    clock.now += settings.lease_seconds - 1
    store.attempts.renew(job.id, attempt)
    sweep.sweep()
    clock.now += settings.lease_seconds - 1
    sweep.sweep()
    assert store.jobs.get(project, job.id).status == Status.RUNNING
    clock.now += 1
    sweep.sweep()
    assert store.jobs.get(project, job.id).status == Status.QUEUED


def test_a_job_that_kills_its_workers_fails_and_is_counted(store: Store, settings: Settings, project: str) -> None:
    clock = Clock()
    registry = CollectorRegistry()
    sweep = Sweep(store, settings, NoQueue(0), Metrics(registry, "beat"))
    sweep._jobs = Watch(clock)
    job, _ = store.jobs.create(project, kind="train", spec={"schema_version": 1})

    before = generate_latest(registry).decode().splitlines()
    for _ in range(MAX_LOST_ATTEMPTS):
        claim(store)
        sweep.sweep()
        clock.now += settings.lease_seconds
        sweep.sweep()

    failed = store.jobs.get(project, job.id)
    assert failed.status == Status.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "worker_lost"
    after = generate_latest(registry).decode().splitlines()
    for told in (
        'tunesmith_jobs_finished_total{kind="train",status="failed"}',
        'tunesmith_jobs_failed_total{code="worker_lost",kind="train"}',
    ):
        assert f"{told} 0.0" in before and f"{told} 1.0" in after  # an increase: Prometheus sees none from nothing to 1
    assert 'tunesmith_jobs_finished_total{kind="export",status="failed"} 0.0' in after


def test_a_lost_job_that_was_to_be_cancelled_is_counted_as_that(store: Store, settings: Settings, project: str) -> None:
    clock = Clock()
    registry = CollectorRegistry()
    sweep = Sweep(store, settings, NoQueue(0), Metrics(registry, "beat"))
    sweep._jobs = Watch(clock)
    job, _ = store.jobs.create(project, kind="train", spec={"schema_version": 1})
    claim(store)
    store.jobs.cancel(project, job.id)
    sweep.sweep()
    clock.now += settings.lease_seconds
    sweep.sweep()
    assert store.jobs.get(project, job.id).status == Status.CANCELLED
    page = generate_latest(registry).decode()
    assert 'tunesmith_jobs_finished_total{kind="train",status="cancelled"} 1.0' in page
    assert 'tunesmith_jobs_finished_total{kind="train",status="failed"} 0.0' in page


def test_a_clock_that_jumps_takes_no_job_and_forgets_no_worker(store: Store, settings: Settings, project: str) -> None:
    clock = Clock()
    sweep = Sweep(store, settings, NoQueue(0), Metrics(CollectorRegistry()))
    sweep._jobs, sweep._workers = Watch(clock), Watch(clock)
    job, _ = store.jobs.create(project, kind="train", spec={"schema_version": 1})
    attempt = claim(store)
    beat = partial(store.workers.beat, "w", kinds=["train"], host="h", devices=["cpu"], storage_id="s", version="1")
    beat()
    with sqlite3.connect(settings.home / "ledger.sqlite3") as ledger:  # as if all had been written a year ago
        for table, column in (("workers", "seen_at"), ("attempts", "started_at"), ("jobs", "created_at")):
            ledger.execute(f"UPDATE {table} SET {column} = datetime({column}, '-1 year')")

    sweep.sweep()
    clock.now += settings.lease_seconds - 1
    store.attempts.renew(job.id, attempt)
    sweep.sweep()

    assert store.jobs.get(project, job.id).status == Status.RUNNING
    assert [worker.id for worker in store.workers.list()] == ["w"]
    for _ in range(2):
        sweep.sweep()
        clock.now += (FORGET_LEASES + 1) * settings.lease_seconds
    sweep.sweep()
    assert store.workers.list() == [], "who is not seen anew is gone"


@pytest.mark.parametrize(("depth", "sent"), [(0, ["train"]), (1, []), (None, [])])
def test_the_sweep_wakes_only_into_an_empty_queue(
    store: Store, settings: Settings, project: str, depth: int | None, sent: list[str]
) -> None:
    queue = NoQueue(depth)
    sweep = Sweep(store, settings, queue, Metrics(CollectorRegistry()))
    for number in range(3):
        store.jobs.create(project, kind="train", spec={"schema_version": 1, "number": number})

    sweep.sweep()

    assert queue.sent == sent


def test_a_broker_that_refuses_or_is_silent_does_not_hold_up_a_request(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket() as unused:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        unused.bind(("127.0.0.1", 0))
        for address in (silent, unused):
            port = address.getsockname()[1]
            queue = Queue(Settings(home=tmp_path, broker_url=f"redis://:x@127.0.0.1:{port}/0"))
            began = time.monotonic()
            assert queue.send("ftjob-1", "train") is False
            assert queue.depth("train") is None
            assert time.monotonic() - began < 6


def test_names_mean_the_catalog_then_an_import_root_then_the_hub(
    store: Store, settings: Settings, project: str, tmp_path: Path
) -> None:
    artifacts = ArtifactStore(settings.storage_url, settings.run_dir / "cache")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w").write_text("w")
    sealed = artifacts.put_folder(tmp_path / "weights", artifacts.uri("models", "m"))
    new = NewModel(
        name="team/base", kind="base", uri=sealed.uri, digest=sealed.digest, size_bytes=1, format="safetensors"
    )
    store.models.create(project, new)

    found = catalog.resolve_model(store, settings, project, "team/base")
    assert found.record is not None
    assert (Path(found.local(artifacts)) / "w").read_text() == "w"
    for name in ("model", str(tmp_path / "imports" / "model")):
        assert catalog.resolve_model(store, settings, project, name).path == tmp_path / "imports" / "model"
    hub = catalog.resolve_model(store, settings, project, "meta-llama/Llama-3.1-8B")
    assert (hub.hub_id, hub.local(artifacts)) == ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    "name", ["team/bse", "team-base", "/etc/passwd", "../imports-other", "a/../b", "x\0y", "a/b/c"]
)
def test_a_name_that_means_nothing_is_refused_with_the_nearest(
    store: Store, settings: Settings, project: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "imports-other").mkdir()
    (tmp_path / "imports" / "link").symlink_to("/etc")
    new = NewModel(name="team/base", kind="base", uri="store://m", digest="d", size_bytes=1, format="safetensors")
    store.models.create(project, new)
    closed = Settings(home=settings.home, import_roots=settings.import_roots, hub=False)

    with pytest.raises(NotFound) as refused:
        catalog.resolve_model(store, closed, project, name)
    assert "team/base" in str(refused.value)
    for path in ("link", "link/passwd"):
        with pytest.raises(NotFound):
            catalog.resolve_dataset(store, closed, project, path)


def test_the_brokers_password_is_in_no_argument(tmp_path: Path) -> None:
    url = broker.loopback_url()
    settings = Settings(home=tmp_path, broker_url=url)

    argv = broker.command(settings)

    configuration = Path(argv[1])
    password = url.split(":")[2].split("@")[0]
    assert not any(password in argument for argument in argv)
    assert f"requirepass {password}\n" in configuration.read_text()
    assert "bind 127.0.0.1" in configuration.read_text()
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["redis://10.0.0.1:6379/0", "redis://127.0.0.1:6379/0", "amqp://localhost"])
def test_a_broker_elsewhere_or_without_password_is_not_ours_to_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unavailable, match="TUNESMITH_BROKER_URL"):
        broker.command(Settings(home=tmp_path, broker_url=url))


def test_a_socket_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="shorter"):
        broker.command(Settings(home=tmp_path / ("x" * 120)))


def test_a_python_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, trainer_python=str(tmp_path / "python"), inference_python=sys.executable)

    with pytest.raises(Unavailable, match="TUNESMITH_TRAINER_PYTHON"):
        interpreters.trainer(settings)
    assert interpreters.inference(settings) == sys.executable


def test_a_cpu_is_one_device_that_stands_for_any_number(tmp_path: Path) -> None:
    assert devices.free(tmp_path, ["cpu"]) == ["cpu"]
    taken = devices.take(tmp_path, ["cpu"], 2, {"id": "job-1"})
    assert isinstance(taken, devices.Taken)
    assert taken.names == ("cpu",)
    assert devices.free(tmp_path, ["cpu"]) == []
    taken.close()
    assert devices.free(tmp_path, ["cpu"]) == ["cpu"]


def test_a_log_line_is_one_json_object() -> None:
    record = logging.makeLogRecord({"msg": "Claimed %s\njob", "args": ("train",), "levelname": "INFO", "job_id": "j"})

    line = json.loads(logs.JsonFormatter("trainer").format(record))

    assert (line["message"], line["level"], line["service"], line["job_id"]) == (
        "Claimed train\njob",
        "info",
        "trainer",
        "j",
    )


def test_gauges_of_a_job_go_with_it() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.show_training(
        "job-1", "p", {"step": 3, "total_steps": 12, "mfu": 0.4, "loss": 0.5, "tokens_per_second": None}
    )
    shown = generate_latest(registry)
    assert b'tunesmith_training_loss{job_id="job-1",project_id="p"} 0.5' in shown
    assert b'tunesmith_training_progress_ratio{job_id="job-1",project_id="p"} 0.25' in shown
    assert b'tunesmith_training_mfu{job_id="job-1",project_id="p"} 0.4' in shown
    assert b"job-1" not in generate_latest(Shared(registry))

    metrics.forget_training("job-1")
    metrics.forget_training("job-2")

    assert b"job-1" not in generate_latest(registry)


def test_the_ledger_is_asked_at_each_scrape(store: Store, project: str) -> None:
    registry = CollectorRegistry()
    registry.register(LedgerCollector(store))
    store.jobs.create(project, kind="train", spec={"schema_version": 1})
    store.workers.beat("w", kinds=["train"], host="h", devices=["cpu"], storage_id="s", version="1")

    scraped = generate_latest(registry).decode()

    assert 'tunesmith_jobs{kind="train",status="queued"} 1.0' in scraped
    assert 'tunesmith_queue_depth{kind="train",priority="normal"} 1.0' in scraped
    assert 'tunesmith_queue_depth{kind="export",priority="high"} 0.0' in scraped
    assert 'tunesmith_workers{kind="train"} 1.0' in scraped
