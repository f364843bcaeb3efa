"""The machine that a service runs on, asked at each scrape: GPUs, who holds devices, room on the disks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shared import devices, gpus, volumes
from shared.metrics.impatient import Impatient
from shared.metrics.ledger import type_of
from shared.metrics.read import gauge

#: Fields of nvidia-smi, by the metric that they become, with what turns its unit into ours.
_GPU = {
    "gpu_memory_used_bytes": ("memory.used", 1024**2),
    "gpu_memory_size_bytes": ("memory.total", 1024**2),
    "gpu_utilization_ratio": ("utilization.gpu", 0.01),
    "gpu_temperature_celsius": ("temperature.gpu", 1),
    "gpu_power_watts": ("power.draw", 1),
}


#: A driver that hangs costs no scrape; on a large machine the first answer of an idle one takes seconds.
GPU_WAIT_SECONDS = 8.0


class GpuCollector(Collector):
    """Says nothing on a machine without a GPU, nor of what its driver does not know (`[N/A]`)."""

    def __init__(self, impatient: Impatient | None = None):
        # No second one beside one that hangs in the driver: nothing can end it.
        self._impatient = impatient or Impatient(GPU_WAIT_SECONDS, hangs_seconds=math.inf)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        fields = ("uuid", "name", "driver_version", *(field for field, _ in _GPU.values()))
        try:
            rows = self._impatient.ask(lambda: gpus.query(*fields))
        except TimeoutError:
            return
        yield from gauge("gpu_info", (((uuid, name, driver), 1) for uuid, name, driver, *_ in rows))
        for index, (name, (_, factor)) in enumerate(_GPU.items()):
            told = ((row[0], _number(row[3 + index])) for row in rows)
            yield from gauge(name, (((uuid,), value * factor) for uuid, value in told if value is not None))


class DeviceCollector(Collector):
    """Which of the machine's devices are held, whoever holds them."""

    def __init__(self, run_dir: Path, names: Sequence[str]):
        self._run_dir = run_dir
        self._names = names

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        held = devices.holders(self._run_dir, self._names)
        yield from gauge("device_held", (((name, type_of(name)), float(name in held)) for name in self._names))


class DiskCollector(Collector):
    """The volumes on which these folders lie, by what they are for."""

    def __init__(self, places: Mapping[str, Path]):
        self._places = places

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        found = {name: volumes.volume(place) for name, place in self._places.items()}
        told = {name: volume for name, volume in found.items() if volume is not None}
        yield from gauge("disk_free_bytes", (((name,), volume.free_bytes) for name, volume in told.items()))
        yield from gauge("disk_size_bytes", (((name,), volume.total_bytes) for name, volume in told.items()))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
