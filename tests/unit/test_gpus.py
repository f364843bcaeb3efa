"""What nvidia-smi says reaches metrics, devices and the doctor; one that fails, hangs or is not there costs nothing."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.admin.doctor import environments, machine
from shared import devices, gpus
from shared.metrics.impatient import Impatient
from shared.metrics.machine import GpuCollector
from shared.settings import Settings

CARD = {
    "uuid": "GPU-6f1a7c0e-0001",
    "name": "NVIDIA H100 80GB HBM3",
    "driver_version": "550.90.07",
    "memory.used": "1024",
    "memory.total": "81559",
    "utilization.gpu": "37",
    "temperature.gpu": "41",
    "power.draw": "212.53",
    "compute_cap": "9.0",
}
#: Cut into instances: of the whole card the driver tells no use.
MIG = {**CARD, "uuid": "GPU-6f1a7c0e-0002", "memory.used": "13", "utilization.gpu": "[N/A]"}
#: An old or virtual card.
MUTE = {
    **CARD, "uuid": "GPU-6f1a7c0e-0003", "name": "GRID T4-8Q", "memory.total": "[Insufficient Permissions]",
    "temperature.gpu": "N/A", "power.draw": "[Not Supported]", "utilization.gpu": "[Unknown Error]",
}  # fmt: skip
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)


class Stub:
    """An nvidia-smi on a PATH of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self._file = folder / "nvidia-smi"
        monkeypatch.setenv("PATH", str(folder))

    def prints(self, *cards: dict[str, str]) -> None:
        self._write(f"""
[asked] = [word.partition("=")[2].split(",") for word in sys.argv if word.startswith("--query-gpu=")]
assert "--format=csv,noheader,nounits" in sys.argv
for card in json.loads({json.dumps(json.dumps(cards))}):
    print(", ".join(card[field] for field in asked))
""")

    def fails(self) -> None:
        self._write(f"print({NO_DRIVER!r}); sys.exit(9)")

    def hangs(self) -> None:
        self._write("time.sleep(30)")

    def _write(self, code: str) -> None:
        self._file.write_text(f"#!{sys.executable} -S\nimport json, sys, time\n{code}\n")
        self._file.chmod(0o755)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return Stub(tmp_path, monkeypatch)


def told(impatient: Impatient | None = None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(GpuCollector(impatient))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def doctor(settings: Settings) -> tuple[str, str]:
    (finding,) = machine.gpus(settings)
    return finding.state, finding.told


def test_each_number_of_a_card_is_told_in_base_units(smi: Stub) -> None:
    smi.prints(CARD)
    of = f'{{device="{CARD["uuid"]}"}}'
    assert set(told()) == {
        f'tunesmith_gpu_info{{device="{CARD["uuid"]}",driver="550.90.07",name="NVIDIA H100 80GB HBM3"}} 1.0',
        f"tunesmith_gpu_memory_used_bytes{of} 1.073741824e+09",
        f"tunesmith_gpu_memory_size_bytes{of} 8.5520809984e+10",
        f"tunesmith_gpu_utilization_ratio{of} 0.37",
        f"tunesmith_gpu_temperature_celsius{of} 41.0",
        f"tunesmith_gpu_power_watts{of} 212.53",
    }


def test_what_a_driver_does_not_know_is_no_series_and_costs_no_other(smi: Stub) -> None:
    smi.prints(MIG, MUTE)
    names = {(line.partition("{")[0], line.partition('device="')[2].partition('"')[0]) for line in told()}
    mig, mute = ({name for name, device in names if device == card["uuid"]} for card in (MIG, MUTE))
    assert "tunesmith_gpu_utilization_ratio" not in mig and len(mig) == 5
    assert mute == {"tunesmith_gpu_info", "tunesmith_gpu_memory_used_bytes"}


def test_a_workers_devices_are_the_cards_with_what_is_known_of_each(smi: Stub) -> None:
    smi.prints(MUTE, CARD)
    names = devices.find(Settings())
    assert names == (CARD["uuid"], MUTE["uuid"])
    first, second = devices.known(names)
    assert (first.kind, first.memory_gib, first.capability) == ("NVIDIA H100 80GB HBM3", 79.6, 9.0)
    assert (second.kind, second.memory_gib) == ("GRID T4-8Q", None)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_driver_that_fails_and_a_machine_without_one_have_no_gpus(smi: Stub, is_there: bool) -> None:
    if is_there:
        smi.fails()
    assert gpus.query("uuid") == [] and told() == []
    assert devices.find(Settings()) == ("cpu",)


def test_a_driver_that_hangs_holds_up_no_scrape(smi: Stub) -> None:
    smi.hangs()
    impatient = Impatient(0.2)
    began = time.monotonic()
    assert told(impatient) == told(impatient) == []
    assert time.monotonic() - began < 5.0


def test_the_doctor_names_cards_and_driver_or_what_is_wrong_with_them(smi: Stub) -> None:
    assert doctor(Settings()) == ("ok", "none: this machine is one device, cpu")
    assert doctor(Settings(devices=["GPU-1"])) == ("error", "TUNESMITH_DEVICES names GPUs, and there is no nvidia-smi")
    smi.prints(CARD, MUTE)
    cards = "NVIDIA H100 80GB HBM3 (80 GiB), GRID T4-8Q; driver 550.90.07"
    assert doctor(Settings()) == ("ok", cards)
    smi.fails()
    assert doctor(Settings()) == ("error", "nvidia-smi is there and tells of no GPU")


def test_the_doctor_finds_builds_for_cpus_and_cards_that_torch_does_not_see(smi: Stub, tmp_path: Path) -> None:
    assert not list(environments._for_cards("trainer", {"torch": "2.9.1+cpu"}))
    smi.prints(CARD, MIG)
    (build,) = environments._for_cards("trainer", {"torch": "2.9.1+cpu"})
    assert build.state == "error" and not list(environments._for_cards("trainer", {"torch": "2.9.1"}))
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nprint('2.9.1 1')\n")
    python.chmod(0o755)
    found = list(environments.imports(Settings(trainer_python=str(python), inference_python=str(python))))
    assert {finding.state for finding in found} == {"error"}
    assert all("torch 2.9.1 sees 1 of 2 GPUs" in finding.told for finding in found)


def test_beside_a_question_that_hangs_another_is_asked_after_a_while_and_its_answer_counts() -> None:
    now, held = 0.0, threading.Event()
    impatient = Impatient(0.05, hangs_seconds=30.0, clock=lambda: now)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            impatient.ask(held.wait)
    now = 30.0
    assert impatient.ask(lambda: "there") == "there"
    held.set()
