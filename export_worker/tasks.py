"""The export worker: `celery -A export_worker.tasks worker -Q export,push --pool threads -c 1`."""

from __future__ import annotations

from export_worker.push import PushWork
from export_worker.work import ExportWork
from shared import queue, service
from shared.settings import Settings

settings = Settings.from_env()
app = queue.make_app(settings)
service.serve(app, settings, "export", lambda: [ExportWork(), PushWork()])
