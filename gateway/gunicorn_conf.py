"""How gunicorn runs the gateway.

One process with many threads. A request holds a thread until it is answered, a stream until its first token is there,
and most streams none at all: the worker's loop carries them (gateway/gunicorn_worker.py). One process passes thousands
of events per second and keeps one tailer, one count of what is in flight and one metrics registry; more gateways are
more containers.
"""

from __future__ import annotations

from gateway.congestion import MAX_WAITING
from gateway.tailer import MAX_STREAMS
from shared.settings import Settings

_settings = Settings.from_env()

bind = f"{_settings.host}:{_settings.port}"
worker_class = "gateway.gunicorn_worker.CarryingWorker"
workers = 1
#: Started as they are needed. Some are left when as many requests wait, and as many events are followed, as may.
threads = MAX_WAITING + MAX_STREAMS + 112
#: Open at once; no more than the system's limit of open files allows.
worker_connections = 8192
#: Threads are not covered by it; a process that hangs altogether is.
timeout = 60
#: SIGTERM to the end of what is open.
graceful_timeout = max(2, round(_settings.drain_seconds))
keepalive = 75
#: Heartbeats of the process: memory, not a disk that may be slow.
worker_tmp_dir = "/dev/shm"
#: The app writes its own access log as JSON, with the request id.
accesslog = None
errorlog = "-"
loglevel = "warning"
