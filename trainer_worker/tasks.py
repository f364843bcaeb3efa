"""The training worker: `celery -A trainer_worker.tasks worker -Q train,evaluate --pool threads -c 1`."""

from __future__ import annotations

from shared import queue, service
from shared.settings import Settings
from trainer_worker.evaluate import EvaluateWork
from trainer_worker.work import TrainWork

settings = Settings.from_env()
app = queue.make_app(settings)
service.serve(app, settings, "trainer", lambda: [TrainWork(), EvaluateWork()])
