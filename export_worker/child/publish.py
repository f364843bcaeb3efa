"""The last step of an export: model card, digests, and the rename that makes the output appear.

Standard library only: whoever verified last publishes, and that may be the phase that asks vLLM. What the phases before
found lies in a file of the attempt's scratch folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from export_worker.child import card
from export_worker.child.watch import Watch
from shared.tongues import Text

FOUND = "found.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an export has made and measured so far; plain JSON."""

    #: Folder of what will be published, within the attempt's as the output is: publishing is a rename.
    staging: str
    out: str
    format: str
    #: How the merge was done.
    method: str
    untied: bool
    quantization: Mapping[str, Any] | None
    verification: Mapping[str, Any]
    lineage: Mapping[str, Any]
    licence: str | None
    #: By phase.
    seconds: Mapping[str, float]

    def save(self, scratch: Path) -> None:
        (scratch / FOUND).write_text(json.dumps(asdict(self)))

    def with_vllm(self, measured: Mapping[str, Any]) -> Found:
        return replace(self, verification={**self.verification, "vllm": dict(measured)})

    @classmethod
    def load(cls, scratch: Path) -> Found:
        return cls(**json.loads((scratch / FOUND).read_text()))


def publish(found: Found, watch: Watch) -> dict[str, Any]:
    """Nothing appears under the output's name before this has passed; returns the result of the `done` event."""
    watch.phase("publish", Text("Writing the model card and the digests"))
    staging, out = Path(found.staging), Path(found.out)
    (staging / "README.md").write_text(card_of(found))
    files = digests(staging)
    watch.check()
    staging.rename(out)
    watch.end_phase()
    return {
        "output": out.name,
        "format": found.format,
        "method": found.method,
        "untied": found.untied,
        "quantization": found.quantization,
        "verification": found.verification,
        "files": files,
        "size_bytes": sum(file["size_bytes"] for file in files.values()),
        "seconds": {**found.seconds, **watch.seconds},
    }


def card_of(found: Found) -> str:
    lineage = {name: value for name, value in found.lineage.items() if name != "training_job"}
    return card.render(
        card.Card(
            **lineage,
            format=found.format,
            verification=found.verification,
            quantization=found.quantization,
            licence=found.licence,
        )
    )


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file, by its path within the folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = {"sha256": digest, "size_bytes": path.stat().st_size}
    return found
