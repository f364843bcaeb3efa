"""The thin queue: Celery on Redis carries wake-ups, the ledger carries the jobs.

One message names a job but means "look": whoever gets it claims whatever the ledger says is next. Redis may lose
every message at any moment; the sweep (shared/sweep.py) sends again. No results, no retries, no late acks: on Redis a
late-acked message comes again after the visibility timeout, and an hours-long training would start twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import Celery

from shared import correlation
from shared.settings import Settings

log = logging.getLogger(__name__)

LOOK = "tunesmith.look"
SWEEP = "tunesmith.sweep"
HOUSEKEEPING = "housekeeping"
#: Headers of a wake-up: the ids of whoever sent it.
SENDER = ("request_id", "trace_id")
#: A request must not wait for a broker that is away: the sweep repairs what is not sent.
SEND_TIMEOUT_SECONDS = 1.0


def make_app(settings: Settings) -> Celery:
    """The Celery app of a worker. Importing or making it opens no connection."""
    app = Celery("tunesmith", broker=settings.broker_url)
    app.conf.update(
        # JSON only: a pickled message would let whoever reaches the broker run code.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # The ledger is the truth; results would expire, and fetching them fails after an outage.
        task_ignore_result=True,
        result_backend=None,
        # Early ack: a look is cheap to lose and must never be repeated by the broker.
        task_acks_late=False,
        # A job takes hours: a message fetched ahead would wait behind it while another worker is idle.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Broker restarts are ordinary: wait for it at the start, and for ever later.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # True lost the running job after a 3 s outage (measured); the job needs no broker while it runs.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Names which queue is empty; only queues of ours exist.
        task_create_missing_queues=True,
        # The log is ours: JSON, one object per line.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # Nobody watches Celery's own events; without them an idle platform writes nothing to Redis.
        worker_send_task_events=False,
        # No control through the broker: whoever reaches it could shut workers down.
        worker_enable_remote_control=False,
        # A dead connection shows within seconds instead of after the kernel's two hours.
        broker_transport_options={"socket_keepalive": True, "health_check_interval": 10},
        enable_utc=True,
        timezone="UTC",
    )
    return app


class Queue:
    """Sends wake-ups; for the gateway and the sweep."""

    def __init__(self, settings: Settings):
        self._app = make_app(settings)
        self._app.conf.broker_connection_timeout = SEND_TIMEOUT_SECONDS
        self._app.conf.broker_transport_options = {
            "socket_timeout": SEND_TIMEOUT_SECONDS,
            "socket_connect_timeout": SEND_TIMEOUT_SECONDS,
            # One try: kombu's default is 100.
            "max_retries": 0,
            "connect_retries_timeout": SEND_TIMEOUT_SECONDS,
        }

    def send(self, job_id: str, kind: str) -> bool:
        """Wake a worker of this kind. Never raises and never waits long; False when the broker is away."""
        try:
            headers = {name: value for name, value in correlation.current().items() if name in SENDER}
            self._app.send_task(LOOK, args=[job_id], queue=str(kind), retry=False, headers=headers)
        except Exception:  # the edge to the broker: whatever is wrong with it, the job is safe in the ledger
            log.warning("The broker cannot be reached; the sweep will send again", extra={"job_id": job_id})
            log.debug("Sending failed", exc_info=True)
            return False
        return True

    def depth(self, kind: str) -> int | None:
        """Wake-ups that nobody has fetched yet; None when the broker is away."""
        try:
            with self._app.connection_for_write() as connection:
                declared: Any = connection.default_channel.queue_declare(queue=str(kind), durable=True)
                return int(declared.message_count)
        except Exception:  # the edge to the broker
            log.debug("The broker cannot be reached", exc_info=True)
            return None


def ids_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of who sent a wake-up, from what Celery tells of its message."""
    return {name: value for name in SENDER if (value := request.get(name))}
