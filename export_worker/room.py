"""Room for an export on this machine, looked at before it begins: what cannot be written is said before hours of work.

Other jobs write meanwhile, so a disk may still be full later; the child then fails with the same code.
"""

from __future__ import annotations

from shared import volumes
from shared.advice import exports
from shared.catalog import Resolved, is_on_hub
from shared.spec import ExportSpec
from shared.work import Run


def size_of(base: Resolved) -> int | None:
    """Bytes of the base's files; None: they are on the Hub."""
    if base.record is not None:
        return None if is_on_hub(base.record.uri) else int(base.record.size_bytes)
    if base.path is None:
        return None
    return sum(file.stat().st_size for file in base.path.iterdir() if file.is_file())


def require(run: Run, spec: ExportSpec, base: Resolved) -> None:
    """Raises volumes.NoRoom where the volume of the attempt, or of the storage, has less than will be written."""
    needed = exports.needs(spec, exports.Known(base=base.name, base_bytes=size_of(base), dtype=spec.source.infer_dtype))
    if needed is None:
        return
    volumes.require(run.folder, needed.scratch)
    if run.artifacts.root is not None:
        volumes.require(run.artifacts.root, needed.storage)
