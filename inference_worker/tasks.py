"""The worker of generation jobs: `celery -A inference_worker.tasks worker -Q generate --pool threads -c 4`."""

from __future__ import annotations

from inference_worker.work import GenerateWork
from shared import queue, service
from shared.settings import Settings

settings = Settings.from_env()
app = queue.make_app(settings)
#: A job may wait for its model for hours: others go on beside it. Celery's `-c` says the same.
SLOTS = 4
# The devices are the replicas'.
service.serve(app, settings, "generate", lambda: [GenerateWork()], needs_devices=False, slots=SLOTS)
