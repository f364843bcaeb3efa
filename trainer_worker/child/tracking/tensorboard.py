"""TensorBoard: event files below the model's tracking/tensorboard. Written by its own record writer, without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from trainer_worker.child.tracking.run import TrackedRun, named


class TensorBoard:
    url = None
    #: Its files are new in every attempt: all that came before is written again.
    last_step = -1

    def __init__(self, run: TrackedRun):
        self._writer = EventFileWriter(str(run.kept))

    def log(self, values: Mapping[str, float], step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in named(values).items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self, ending: str) -> None:
        self._writer.close()


def start(run: TrackedRun) -> TensorBoard:
    return TensorBoard(run)
