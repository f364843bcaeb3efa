"""One replica from its claim to its release: its engine started, warmed, watched, started again, drained, stopped.

Runs in a thread of its own, so that nothing it waits for (a download, a start of minutes) holds up another. Every
write is fenced by the attempt of its claim; who loses the lease writes nothing more. The keeper ends the process,
also when this worker dies: vLLM's engine would outlive its server by itself.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inference_worker import cpu_kernels, engines, files, starting
from inference_worker.adapters import Adapters
from inference_worker.counting import Counts, Standing
from inference_worker.engine import Engine, Numbers
from inference_worker.starting import BackOff
from shared import (
    devices,
    fitting,
    formats,
    happenings,
    interpreters,
    schema,
    serving,
    spawn,
    vllm_log,
)
from shared.artifact import ArtifactStore
from shared.errors import ChildFailed, InvalidSpec, LeaseLost, TunesmithError
from shared.lease import LEDGER_AWAY
from shared.records import NewEvent, Replica
from shared.settings import Settings
from shared.spec import DeploySpec
from shared.store import Store
from shared.tracing import NoSpan, NoTracer, Span, Tracer
from shared.vllm_arguments import Files, Machine

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_SECONDS = 0.25
#: How long answers that are being given may take when the deployment is stopped, and when this worker is.
DRAIN_SECONDS = 30.0
SHUTDOWN_DRAIN_SECONDS = 5.0
#: Gateways know the ready replicas of a second ago: so long after the last is told, requests still come.
LAST_REQUEST_SECONDS = 2.0
#: A server that is up but does not answer for this long is started again.
HANG_SECONDS = 60.0


class Stopped(Exception):
    """The deployment wants no replica, or this worker shall end."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What all replicas of a worker share."""

    store: Store
    artifacts: ArtifactStore
    settings: Settings
    counts: Counts
    #: UUIDs; empty on a machine without a GPU.
    gpus: tuple[str, ...]
    #: Set when the worker shall end.
    stopping: threading.Event
    tracer: Tracer = field(default_factory=NoTracer)


class Life:
    def __init__(self, replica: Replica, worker: Worker, back_off: BackOff | None = None):
        self.replica = replica
        self._worker = worker
        self._settings = worker.settings
        self._spec = schema.from_stored(DeploySpec, replica.spec)
        #: The name that requests ask for; the model's own unless the deployment was given another.
        self._served_name = replica.deployment_name
        self._folder = worker.settings.run_dir / "replicas" / replica.id
        self._launcher = engines.of(self._spec)
        self._title = self._launcher.engine.title
        self._log = self._folder / f"{self._launcher.engine.name}.log"
        self._helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"files-{replica.id}")
        #: What the next renewal tells.
        self.status = "starting"
        self._url = ""
        self._error: str | None = None
        self._log_tail: str | None = None
        self._load = 0.0
        self._api_key = ""
        self._events: list[NewEvent] = []
        self._wanted = "running"
        self._renewed_at = 0.0
        self._answered_at = 0.0
        self._ready_at = 0.0
        self._back_off = back_off or BackOff()
        #: Of a start, until it is ready or has failed.
        self._starting: Span = NoSpan()
        self._kept: spawn.Kept | None = None
        self._engine: Engine | None = None
        self._taken: devices.Taken | None = None
        self._counted = Numbers()
        #: While it is ready.
        self._adapters: Adapters | None = None
        self._max_lora_rank: int | None = None

    @property
    def standing(self) -> Standing:
        return Standing(status=self.status, model=self._served_name, replica_id=self.replica.id, numbers=self._counted)

    @property
    def num_awaited(self) -> int:
        """GPUs that it is about to take."""
        return fitting.num_devices(self.replica.spec) if self._worker.gpus and self._taken is None else 0

    def live(self) -> None:
        """Until nobody wants the replica here any more. Returns when its process is gone."""
        try:
            self._tell("starting")
            while True:
                self._serve_once()
        except Stopped:
            self._end()
        except LeaseLost:
            log.warning("Another worker holds the replica now; writing nothing", extra=self._context())
        finally:
            self._stop_process()
            self._helper.shutdown(wait=False, cancel_futures=True)
            if self._taken is not None:
                self._taken.close()

    def _serve_once(self) -> None:
        """One process, from its start to its end, and a pause before the next. Raises Stopped, LeaseLost."""
        try:
            self._serve()
        except (Stopped, LeaseLost):
            raise
        except Exception as error:  # the edge of one start: whatever it was, the row says it and another follows
            self._stop_process()
            self._explain(error)
            self._worker.counts.failed(self._served_name)
        # Without a start that succeeded the time since an earlier one says nothing about this process.
        pause = self._back_off.pause(time.monotonic() - self._ready_at if self.status == "ready" else 0.0)
        self._events.append(happenings.failed(self.replica, self.status, str(self._error), self._log_tail, pause))
        # A start that failed is the deployment's failure until one succeeds; a crash after it was ready is not.
        self._tell("starting" if self.status == "ready" else "failed")
        self._wait(pause)

    def _serve(self) -> None:
        """Start and watch one process. Raises ChildFailed when it ends, Stopped when it shall."""
        began = time.monotonic()
        told: dict[str, Any] = {"model": self.replica.model_name, "attempt": self.replica.attempt, **self._context()}
        self._starting = self._worker.tracer.start("replica start", **told)
        found = self._meanwhile(self._bring_files)
        self._starting.event("files")
        machine = self._machine()
        self._check_format(found, machine)
        self._start(found, machine)
        self._await_health()
        engine = self._engine
        assert engine is not None
        self._meanwhile(lambda: engine.warm_up(self._served_name))
        self._error, self._log_tail = None, ""
        self._ready_at = self._answered_at = time.monotonic()
        self._events.append(happenings.ready(self.replica, self._ready_at - began))
        self._starting.end()
        self._worker.counts.started(self._served_name, self._ready_at - began)
        self._max_lora_rank = engines.max_lora_rank(self._spec, found, machine)
        self._tell("ready")
        log.info("Replica is ready", extra=self._context())
        self._adapters = self._keep_adapters(own=self._served_name if found.adapter else None)
        while True:
            self._wait(TICK_SECONDS)
            if self._adapters.has_news():
                self._events += self._adapters.take_events()
                self._renew()

    def _keep_adapters(self, own: str | None) -> Adapters:
        """Those of other deployments that are wanted on this replica, in a thread and over connections beside."""
        store, artifacts, mine = self._worker.store, self._worker.artifacts, Engine(self._url, self._api_key)
        adapters = Adapters(store, artifacts, self.replica, mine, self._max_lora_rank, own=own)

        def keep() -> None:
            with contextlib.closing(mine):
                adapters.keep()

        threading.Thread(target=keep, name=f"adapters-{self.replica.id}", daemon=True).start()
        return adapters

    def _bring_files(self) -> Files:
        self._folder.mkdir(parents=True, exist_ok=True)
        worker, replica = self._worker, self.replica
        return files.bring(
            worker.store, worker.artifacts, worker.settings, replica.project_id, replica.model_name, self._spec,
            self._folder,
        )  # fmt: skip

    def _machine(self) -> Machine:
        """Takes the devices that it needs, when the machine has any to take; waits for them."""
        while self._worker.gpus and self._taken is None:
            holder = {"id": self.replica.id, "kind": "replica"}
            count, allowed = self.num_awaited, fitting.usable(self.replica.spec, self._worker.gpus)
            taken = devices.take(self._settings.run_dir, allowed, count, holder)
            if isinstance(taken, devices.Taken):
                self._taken = taken
            else:
                self._error = f"waiting for {count} device(s): {taken}"
                self._wait(1.0)
        return Machine(
            gpus=self._taken.names if self._taken else (),
            cpu_kv_cache_gib=self._settings.cpu_kv_cache_gib,
            has_cpu_kernels=not self._worker.gpus and cpu_kernels.are_installed(interpreters.inference(self._settings)),
            cache_folder=self._settings.run_dir / "cache" / "vllm",
            watching=starting.watching(self._settings, self._starting),
        )

    def _check_format(self, found: Files, machine: Machine) -> None:
        """Say in our words what the engine would say after a minute in its own: the door may have known no worker."""
        made = formats.TABLE.get(found.format or "")
        there = devices.known(tuple(machine.gpus) or (devices.CPU,))
        if made is not None and (
            why := serving.refusal(self.replica.model_name, made, there, found.num_bits, self._spec.engine)
        ):
            raise InvalidSpec(why, field="model")

    def _start(self, found: Files, machine: Machine) -> None:
        address = starting.address(self._settings.replica_host)
        self._api_key = secrets.token_urlsafe(32)
        python = self._launcher.python(self._settings)
        argv = self._launcher.argv(python, self._spec, found, machine, served_name=self._served_name, address=address)
        place = f"GPUs {', '.join(machine.gpus)}" if machine.gpus else "the CPU"
        log.info("Starting %s on %s at %s", self._title, place, address.url, extra=self._context() | {"argv": argv})
        vllm_log.rotate(self._log)
        self._kept = spawn.start(
            argv,
            env=spawn.environment(self._launcher.env(found, machine, api_key=self._api_key)),
            folder=self._folder,
            log=self._log,
            limit_seconds=self._settings.keeper_seconds,
            locks=self._taken.descriptors if self._taken else (),
        )
        self._kept.renew(self._renewed_at)
        self._url = address.url
        self._engine = Engine(address.url, self._api_key)
        self._counted = Numbers()

    def _await_health(self) -> None:
        assert self._engine is not None
        deadline = time.monotonic() + self._settings.replica_start_seconds
        while not self._engine.healthy():
            self._wait(TICK_SECONDS)
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self._title} was not up after {self._settings.replica_start_seconds:.0f} s")

    def _wait(self, seconds: float) -> None:
        """Let time pass: the lease is renewed, the process watched. Raises Stopped, LeaseLost, ChildFailed."""
        self._sleep(seconds)
        if self._wanted != "running" or self._worker.stopping.is_set():
            raise Stopped
        if self._kept is not None and (code := self._kept.poll()) is not None:
            self._kept = None
            raise ChildFailed(f"{self._title} {starting.meaning(code)}")
        if self.status == "ready" and time.monotonic() - self._answered_at > HANG_SECONDS:
            raise ChildFailed(f"{self._title} did not answer for {HANG_SECONDS:.0f} s")

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            # Not the stopping event: drains go on after it is set.
            time.sleep(min(left, TICK_SECONDS))
            if time.monotonic() - self._renewed_at >= self._settings.renew_seconds:
                self._look()
                self._renew()

    def _meanwhile(self, slow: Callable[[], T]) -> T:
        """Do something slow in the helper's thread while the lease is renewed."""
        future = self._helper.submit(slow)
        while not future.done():
            self._wait(TICK_SECONDS)
        return future.result()

    def _look(self) -> None:
        """Read what the engine counts, or what it writes while it starts."""
        if self.status == "starting" and self._kept is not None:
            self._log_tail = vllm_log.tail(self._log)
        if self.status not in ("ready", "stopping") or self._engine is None:
            return
        numbers = self._engine.numbers()
        if numbers is None:
            return
        self._answered_at = time.monotonic()
        self._load = numbers.load
        self._worker.counts.add(self._served_name, before=self._counted, after=numbers)
        self._counted = numbers

    def _tell(self, status: str) -> None:
        """Write a new status at once."""
        self.status = status
        self._renew()

    def _renew(self) -> None:
        """Raises LeaseLost. While the ledger is away nothing is renewed, and the keeper's patience runs."""
        began = time.monotonic()
        loaded, errors = self._adapters.told if self._adapters is not None else ([], {})
        try:
            self._wanted = self._worker.store.replicas.renew(
                self.replica.id,
                self.replica.attempt,
                status=self.status,
                url=self._url,
                load=self._load,
                error=self._error,
                log_tail=self._log_tail,
                api_key=self._api_key,
                served_name=self._served_name,
                events=self._events,
                adapters=loaded,
                adapter_errors=errors,
                max_lora_rank=self._max_lora_rank,
            )
            self._events = []
        except LEDGER_AWAY as error:
            log.warning("The ledger cannot be reached: %s", type(error).__name__, extra=self._context())
            return
        self._renewed_at = began
        if self._kept is not None:
            self._kept.renew(began)

    def _explain(self, error: Exception) -> None:
        """Keep for the row what went wrong: the message, the line of the log that names it, and the log's end."""
        message = error.message if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"[:500]
        why = vllm_log.cause(self._log) if isinstance(error, ChildFailed) else None
        self._error = f"{message}: {self._launcher.explained(why)}" if why else message
        self._log_tail = vllm_log.tail(self._log) or None
        unexpected = None if isinstance(error, TunesmithError) else error
        context = self._context() | {"log_tail": self._log_tail}
        log.error("Replica failed: %s", self._error, exc_info=unexpected, extra=context)
        self._starting.end(error=str(self._error))

    def _end(self) -> None:
        try:
            self._drain()
            self._stop_process()
            self._worker.store.replicas.release(self.replica.id, self.replica.attempt)
        except (LeaseLost, *LEDGER_AWAY) as error:
            log.warning("The replica's row is left to others: %s", type(error).__name__, extra=self._context())
        log.info("Replica is stopped", extra=self._context())

    def _drain(self) -> None:
        """Let answers that are being given come to their end; gateways send no more as soon as they know."""
        was_ready, self._load = self.status == "ready", 0.0
        self._tell("stopping")
        if not was_ready or self._kept is None:
            return
        seconds = SHUTDOWN_DRAIN_SECONDS if self._worker.stopping.is_set() else DRAIN_SECONDS
        began = time.monotonic()
        while time.monotonic() - began < seconds and self._kept.poll() is None:
            self._sleep(TICK_SECONDS)
            self._look()
            if time.monotonic() - began > LAST_REQUEST_SECONDS and not self._load:
                return

    def _stop_process(self) -> None:
        """Let the keeper kill everything that the engine started, and see that it is gone."""
        if self._adapters is not None:
            self._adapters.end()
            self._adapters = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._kept is not None:
            self._kept.kill()
            self._kept.wait()
            self._kept = None
        self._load = 0.0

    def _context(self) -> dict[str, str]:
        return {"replica_id": self.replica.id, "model": self._served_name}
