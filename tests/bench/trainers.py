"""`make bench`: the same YAML, data and model through Tunesmith, LLaMA Factory and plain TRL, in turn in one run.

Every round runs all three, every second round backwards, so that what else the machine does falls on all alike; the
table in docs/benchmarks.md has the median and every round. LLaMA Factory gets an environment of its own, made at first
use. `--steps N`, `--rounds N`, `--only SETTING` and `--side NAME` make it shorter; `--gpu` adds what needs a GPU. A
platform that runs already is used, else one is started. A benchmark is not a test: it fails only where a training does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from gateway.demo import base
from gateway.demo.platform import Platform
from shared import interpreters
from shared.settings import Settings
from tests.bench import page
from tests.bench.settings import Setting, model_folder, settings
from tests.bench.sides import Command, Measured, Tunesmith

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "llama_factory.txt"
LLAMA_FACTORY = ROOT / ".venvs" / "llamafactory"


def main() -> int:
    parser = ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="of each training, the first of which is not measured")
    parser.add_argument("--rounds", type=int, default=2, help="of all trainers")
    parser.add_argument("--only", help="one setting: unpacked or packed")
    parser.add_argument("--side", action="append", help="one trainer; may be given several times")
    parser.add_argument("--gpu", action="store_true", help="also 8B-shaped models of random weights on a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="where the page goes")
    args = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    found = run(args, console)
    on_gpu = None
    if args.gpu:
        from tests.bench import gpu

        on_gpu = gpu.run(console)
    args.out.write_text(page.text(found, steps=args.steps, on_gpu=on_gpu, python=LLAMA_FACTORY / "bin" / "python"))
    console.print(f"Written: {args.out}")
    return 0


def run(args: Namespace, console: Console) -> dict[str, list[Measured]]:
    """Every measurement by setting."""
    own = Settings.from_env()
    get_base(own)
    platform = Platform(own)
    try:
        with platform.ensure() as client, TemporaryDirectory(prefix="tunesmith-bench-") as work:
            if base.NAME not in {model["id"] for model in client.get("/v1/models")["data"]}:
                client.post("/v1/models", {"name": base.NAME, "model_name_or_path": base.NAME})
            model = model_folder(own.home)
            trainer = Path(interpreters.trainer(own))
            sides = [
                Tunesmith(client),
                Command("LLaMA Factory", llama_factory(console), "llama_factory.py", model),
                Command("TRL", trainer, "plain_trl.py", model),
            ]
            wanted = [side for side in sides if not args.side or side.name in args.side]
            return {
                setting.name: list(rounds(wanted, setting, args, Path(work), console))
                for setting in settings()
                if args.only in (None, setting.name)
            }
    finally:
        if platform.is_ours:
            platform.stop()


def rounds(
    sides: list[Tunesmith | Command], setting: Setting, args: Namespace, work: Path, console: Console
) -> Iterator[Measured]:
    for number in range(args.rounds):
        for side in order(sides, number):
            folder = work / f"{setting.name}-{side.name.replace(' ', '-')}-{number}"
            made = side.run(setting, args.steps, folder)
            shutil.rmtree(folder, ignore_errors=True)
            console.print(line(setting, number, made))
            yield made


def order(sides: list[Tunesmith | Command], number: int) -> Iterable[Tunesmith | Command]:
    return sides if number % 2 == 0 else reversed(sides)


def line(setting: Setting, number: int, made: Measured) -> str:
    told = {name: value for name, value in asdict(made).items() if name not in ("losses", "side")}
    values = ", ".join(f"{name} {value:,.1f}" for name, value in told.items())
    return f"{setting.name} {number + 1}: {made.side}: {values}, loss {made.losses[0]:.3f} -> {made.losses[-1]:.3f}"


def get_base(own: Settings) -> None:
    import_dir = own.home / "import"
    if not base.is_there(import_dir):
        with base.workplace(own.home) as folder:
            work = Path(folder)
            base.convert(base.download(work), work, import_dir, interpreters.trainer(own))


def llama_factory(console: Console) -> Path:
    """Its interpreter, in an environment with what its release was made for. On a machine without GPUs torchaudio,
    whose wheels load CUDA, is an empty module: text is all that is trained on."""
    python = LLAMA_FACTORY / "bin" / "python"
    ready = LLAMA_FACTORY / ".ready"
    if ready.is_file() and ready.read_text() == REQUIREMENTS.read_text():
        return python
    console.print(f"Making {LLAMA_FACTORY.relative_to(ROOT)} (once; some minutes)")
    shutil.rmtree(LLAMA_FACTORY, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(LLAMA_FACTORY)], check=True)
    pip = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
    where = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (Path(where.stdout.strip()) / "torchaudio.py").write_text('"""No audio is trained on here."""\n')
    ready.write_text(REQUIREMENTS.read_text())
    return python


if __name__ == "__main__":
    sys.exit(main())
