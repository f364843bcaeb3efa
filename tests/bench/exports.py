"""`make bench-export`: one adapter merged into a model of some gigabytes by Tunesmith, peft and LLaMA Factory, in turn.

The model is made on the spot of random weights, because time and memory do not depend on their values. Each side is one
process, measured by the kernel from its start to its end; what was written is compared tensor by tensor, and a copy of
the base's files says what the disk can do. docs/benchmarks-export.md has the median and every round. `--gigabytes N`,
`--rounds N` and `--llama-factory PYTHON` (an interpreter that has it) change what is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from rich.console import Console

from shared import interpreters
from shared.settings import Settings
from tests.bench import exports_page
from tests.bench.settings import model_folder
from tests.bench.sides import BenchFailed, environment
from tests.bench.trainers import ROOT, get_base, llama_factory

DRIVERS = Path(__file__).parent / "drivers"
COPY = "Copy of the base"


@dataclass(frozen=True, kw_only=True)
class Merged:
    side: str
    #: From the start of the process to its end.
    seconds: float
    #: And until what it wrote is on the disk.
    synced_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def main() -> int:
    parser = ArgumentParser(prog="make bench-export", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.2, help="of the base")
    parser.add_argument("--rounds", type=int, default=3, help="of all sides")
    parser.add_argument("--llama-factory", type=Path, help="interpreter that has it; made at first use otherwise")
    parser.add_argument("--work", type=Path, help="folder for the models: four times the base's size is needed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks-export.md", help="where the page goes")
    args = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    own = Settings.from_env()
    get_base(own)
    trainer = Path(interpreters.trainer(own))
    factory = args.llama_factory or llama_factory(console)
    with TemporaryDirectory(prefix="tunesmith-bench-", dir=args.work) as folder:
        work = Path(folder)
        small = str(model_folder(own.home))
        call([str(trainer), str(DRIVERS / "large_model.py"), small, str(work), str(args.gigabytes)], work)
        made = list(rounds(sides(trainer, factory, work), args, work, console))
        size = sum(file.stat().st_size for file in (work / "base").glob("*.safetensors"))
    page = exports_page.text(made, base_bytes=size, trainer=trainer, factory=factory)
    args.out.write_text(page)
    console.print(f"Written: {args.out}")
    return 0


def sides(trainer: Path, factory: Path, work: Path) -> dict[str, list[str]]:
    """The command of each, without the folder that it writes."""
    base, adapter = str(work / "base"), str(work / "adapter")
    config = {
        "model_name_or_path": base, "adapter_name_or_path": adapter, "template": "default", "finetuning_type": "lora",
        "trust_remote_code": False, "export_dir": str(work / "LLaMA Factory"), "export_size": 5, "export_device": "cpu",
        "export_legacy_format": False,
    }  # fmt: skip
    (work / "export.yaml").write_text(yaml.safe_dump(config))
    return {
        "Tunesmith": [str(trainer), str(DRIVERS / "merge_streamed.py"), base, adapter, str(work / "Tunesmith")],
        "peft": [str(trainer), str(DRIVERS / "merge_peft.py"), base, adapter, str(work / "peft")],
        "LLaMA Factory": [str(factory), "-m", "llamafactory.cli", "export", str(work / "export.yaml")],
        COPY: ["cp", "-r", "--reflink=never", base, str(work / COPY)],
    }


def rounds(commands: dict[str, list[str]], args: Namespace, work: Path, console: Console) -> Iterator[Merged]:
    trainer = commands["peft"][0]
    for number in range(args.rounds):
        names = list(commands) if number % 2 == 0 else list(reversed(commands))
        for name in names:
            made = measured(name, commands[name], work)
            text = f"{made.seconds:.1f} s ({made.synced_seconds:.1f} s to the disk), {made.cpu_seconds:.1f} s of CPU"
            console.print(f"{number + 1}: {name}: {text}, {made.peak_rss_bytes / 1e9:.2f} GB")
            yield made
        for name in ("Tunesmith", "LLaMA Factory"):
            call([trainer, str(DRIVERS / "same_tensors.py"), str(work / "peft"), str(work / name)], work)
        for name in names:
            shutil.rmtree(work / name)


def measured(name: str, command: Sequence[str], work: Path) -> Merged:
    # What the side before has left for the disk is not this one's to wait for.
    os.sync()
    began = time.monotonic()
    with open(work / "log.txt", "w") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=called(), stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    ended = time.monotonic()
    if child.returncode:
        text = (work / "log.txt").read_text()[-2000:]
        raise BenchFailed(f"{name} ended with exit code {child.returncode}:\n{text}")
    os.sync()
    return Merged(
        side=name,
        seconds=ended - began,
        synced_seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
    )


def called() -> dict[str, str]:
    return environment() | {"PYTHONPATH": str(ROOT)}


def call(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=ROOT, env=called(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BenchFailed(f"{command[1]} failed:\n{done.stdout[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
