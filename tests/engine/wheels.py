"""Wheels of what is installed here, for an image build that asks no index: the same files, packed again.

Scripts are not in them: pip writes those of entry points anew, and nothing of an image wants others.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

#: What the installation here has added.
LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def provide(sites: Iterable[Path], requirements: Iterable[str], folder: Path) -> None:
    """A wheel for each `name==version`, from the first of `sites` that has it; what none has is downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=[str(site) for site in sites]):
        found.setdefault(_stem(distribution.name, distribution.version), distribution)
    missing = []
    for requirement in requirements:
        # Its marker, if any, speaks of the Python that it will be installed for.
        name, _, version = requirement.partition(";")[0].strip().partition("==")
        if (stem := _stem(name, version)) in found:
            _pack(found[stem], folder)
        elif not any(folder.glob(f"{stem}-*.whl")):
            missing.append(f"{name}=={version}")
    if missing:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*argv, "--dest", str(folder), *missing], check=True, capture_output=True)


def _stem(name: str, version: str) -> str:
    return f"{name.lower().replace('-', '_').replace('.', '_')}-{version}"


def _pack(distribution: Distribution, folder: Path) -> None:
    # Of several tags any will do: the platform of the image is that of this machine.
    tag = (HeaderParser().parsestr(distribution.read_text("WHEEL") or "").get_all("Tag") or [])[-1]
    whole = folder / f"{_stem(distribution.name, distribution.version)}-{tag}.whl"
    if whole.exists():
        return
    partial = whole.with_suffix(".part")
    files = [file for file in distribution.files or () if file.parts[0] != ".." and file.suffix != ".pyc"]
    with zipfile.ZipFile(partial, "w") as archive:
        kept = [file for file in files if not (file.parent.suffix == ".dist-info" and file.name in LEFT_OUT)]
        for file in kept:
            archive.write(str(file.locate()), str(file))
        record = next(file for file in files if file.name == "RECORD")
        archive.writestr(str(record), "".join(f"{file},,\n" for file in (*kept, record)))
    partial.rename(whole)
