"""`tunesmith up`: the platform on embedded defaults, from nothing to ready, and in order back to nothing.

It checks first (home, port, interpreters) and starts nothing before all is well. What must not be lost is in the
ledger and in the artifacts below home; this process keeps no state, so that it may be killed at any moment.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import httpx
from rich.console import Console
from rich.markup import escape

from gateway.admin import home, keys, monitoring
from gateway.admin.services import WITH_METRICS, Service, services
from gateway.admin.supervisor import POLL_SECONDS, ServiceFailed, Supervisor
from shared import broker, interpreters, rayinit, spawn
from shared.settings import Settings, process_environment

#: From the start of the services to /readyz; a cold disk on two busy cores took 40 s.
READY_SECONDS = 150.0


class StopRequest:
    """Counts Ctrl-C, SIGTERM and the terminal's end; the second one means: at once."""

    def __init__(self) -> None:
        self.count = 0

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def is_made(self) -> bool:
        return self.count > 0

    def is_urgent(self) -> bool:
        return self.count > 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def run(settings: Settings, console: Console) -> int:
    began = time.monotonic()
    settings = complete(settings)
    with home.hold(settings.home):
        home.require_port(settings)
        stop = StopRequest()
        stop.listen()
        settings, embedded = with_broker(settings)
        key = prepare_ledger(settings)
        home.write_client_file(settings, key)
        supervisor = Supervisor(environment(settings), settings.home, settings.home / "logs", _sayer(console))
        try:
            ports = start(supervisor, settings, embedded)
            with keys.opened(settings) as store:
                monitoring.write(settings, store, ports)
            wait_until_ready(supervisor, settings, ports, stop, console)
            if not stop.is_made():
                greet(settings, console, key, time.monotonic() - began)
            while not stop.is_made():
                supervisor.check()
                time.sleep(POLL_SECONDS)
        finally:
            console.print("stopping ...")
            supervisor.stop(stop.is_urgent)
        console.print("stopped")
    return 0


def complete(settings: Settings) -> Settings:
    """With home/import added, and the interpreters found. Raises Unavailable, naming the one that is missing."""
    return replace(
        settings,
        trainer_python=interpreters.trainer(settings),
        inference_python=interpreters.inference(settings),
        import_roots=[*settings.import_roots, settings.home / "import"],
    )


def with_broker(settings: Settings) -> tuple[Settings, Service | None]:
    """The embedded broker, on a socket below home for this user alone, unless TUNESMITH_BROKER_URL names another."""
    embedded = Settings(home=settings.home).broker_url
    if settings.broker_url != embedded:
        return settings, None
    if len(embedded.removeprefix("redis+socket://").encode()) > broker.MAX_SOCKET_PATH_BYTES:
        settings = replace(settings, broker_url=broker.loopback_url())
    return settings, Service(name="broker", argv=tuple(broker.command(settings)), rank=3)


def environment(settings: Settings) -> dict[str, str]:
    """What every service gets: the settings, and what lets a worker into the Ray cluster that they name."""
    cluster = process_environment(*rayinit.CLUSTER_VARIABLES) if settings.ray_address else {}
    return spawn.environment(cluster | settings.environment())


def prepare_ledger(settings: Settings) -> str | None:
    """Migrate; the first key of a new ledger, else None."""
    with keys.opened(settings) as store:
        store.migrate()
        project_id = store.projects.default().id
        if store.keys.list(project_id):
            return None
        _, secret = store.keys.create(project_id, "first", "admin")
        return secret


def start(supervisor: Supervisor, settings: Settings, embedded: Service | None) -> dict[str, int]:
    """Start all; the ports of their metrics."""
    if embedded is not None:
        supervisor.start(embedded)
    first = settings.metrics_port or settings.port + 1
    ports = home.free_ports(settings.metrics_host, first, WITH_METRICS)
    for service in services(settings, ports):
        supervisor.start(service)
    return ports


def wait_until_ready(
    supervisor: Supervisor, settings: Settings, ports: dict[str, int], stop: StopRequest, console: Console
) -> None:
    """Until the gateway says that it is ready, and every worker serves its metrics: it does so when it can work.

    Raises ServiceFailed.
    """
    workers = [f"http://{settings.metrics_host}:{port}/metrics" for port in ports.values()]
    urls, end = [f"{home.public_url(settings)}/readyz", *workers], time.monotonic() + READY_SECONDS
    with console.status("starting the platform"):
        while not stop.is_made():
            supervisor.check(is_ready=False)
            urls = [url for url in urls if not _answers(url)]
            if not urls:
                return
            if time.monotonic() > end:
                raise ServiceFailed(
                    f"{urls[0]} does not answer after {READY_SECONDS:.0f} s: see {settings.home / 'logs'}"
                )
            time.sleep(POLL_SECONDS)


def greet(settings: Settings, console: Console, key: str | None, seconds: float) -> None:
    url = home.public_url(settings)
    console.print(f"[bold]Tunesmith is ready[/] ({seconds:.1f} s). Ctrl-C stops it.")
    lines = {
        "console": f"{url}/",
        "API docs": f"{url}/docs",
        "metrics": f"{url}/metrics",
        "data": str(settings.home),
        "logs": str(settings.home / "logs"),
    }
    for name, value in lines.items():
        console.print(f"  {name:<9} {escape(value)}", soft_wrap=True)
    if key is not None:
        console.print(
            f"  {'API key':<9} [bold]{key}[/]  (shown this once; commands on this machine find it)", soft_wrap=True
        )


def _sayer(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {escape(text)}", soft_wrap=True)

    return say


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
