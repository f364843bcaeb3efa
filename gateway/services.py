"""What the routes work with: built once per gateway process, found again through the running app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app

from shared.artifact import ArtifactStore
from shared.queue import Queue
from shared.settings import Settings
from shared.store import Store
from shared.telemetry import Metrics

if TYPE_CHECKING:
    from gateway.tailer import Tailer

#: Key among the app's extensions.
NAME = "tunesmith"


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    store: Store
    artifacts: ArtifactStore
    queue: Queue
    metrics: Metrics
    tailer: Tailer


def services() -> Services:
    return cast(Services, current_app.extensions[NAME])
