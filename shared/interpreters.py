"""Which Python runs the heavy children: worker processes are light, torch and vLLM live in environments of their own.

Nothing is imported from them: an interpreter is looked for as a file, the fallback by the package's spec.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from shared.errors import Unavailable
from shared.settings import Settings

#: The checkout (or image) this code runs from; `make` puts the environments there.
ROOT = Path(__file__).resolve().parent.parent


def trainer(settings: Settings) -> str:
    """The Python with torch and transformers, for training and export children."""
    return _find("trainer", settings.trainer_python, "torch")


def inference(settings: Settings) -> str:
    """The Python with vLLM."""
    return _find("inference", settings.inference_python, "vllm")


def _find(name: str, given: str, package: str) -> str:
    variable = f"TUNESMITH_{name.upper()}_PYTHON"
    if given:
        if os.access(given, os.X_OK) and Path(given).is_file():
            # Not resolved: a virtual environment is known by the path of its link, not by what that points to.
            return str(Path(given).absolute())
        raise Unavailable(f"{variable} is {given!r}: there is no program of that name")
    default = ROOT / ".venvs" / name / "bin" / "python"
    if os.access(default, os.X_OK):
        return str(default)
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    raise Unavailable(
        f"no Python with {package}: {default} does not exist and this interpreter has no {package}; "
        f"run `make setup`, or let {variable} name one"
    )
