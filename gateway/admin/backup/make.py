"""Making a backup, checking one, and letting old ones go."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from gateway.admin.backup import files, rows
from gateway.admin.backup.hold import Say
from gateway.admin.backup.place import ARTIFACTS, LEDGER, Backup, Place
from gateway.admin.backup.rows import Dump
from shared.artifact import ArtifactStore, CorruptArtifact, Sealed, SealedFile
from shared.errors import InvalidRequest, NotFound
from shared.settings import Settings
from shared.store import Store
from shared.store.engine import ledger_time

#: What was deleted while it was copied is not named any more by rows that are read anew.
TRIES = 3


@dataclass(kw_only=True)
class Copied:
    """The artifacts of one reading of the rows."""

    artifacts: list[Sealed] = field(default_factory=list)
    written: list[SealedFile] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder of this user alone, on the volume of the runs: the temporary one may be small."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="backup-", dir=settings.run_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(
    store: Store, artifacts: ArtifactStore, place: Place, folder: Path, say: Say, *, with_secrets: bool = True
) -> Backup:
    """One backup, every new file read again after it was written. Raises Conflict, CorruptArtifact"""
    # Microseconds: the newest of several within a second is the one that --keep keeps.
    # By the ledger's clock, which all machines have in common: a slow one must not make what seems the oldest.
    with store.database.read() as connection:
        began = ledger_time(connection).astimezone(UTC)
    id = f"{began:%Y%m%dT%H%M%S.%fZ}-{os.urandom(2).hex()}"
    ledger = folder / LEDGER
    new: list[SealedFile] = []
    for _ in range(TRIES):
        dump = _dump(store, ledger, with_secrets)
        copied = _copy(artifacts, place, dump, say)
        new += copied.written
        if not copied.vanished:
            break
    for file in new:
        place.check_object(file)
    made = Backup(
        id=id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("tunesmith"),
        revision=dump.revision,
        storage_id=artifacts.storage_id(),
        tables=dump.tables,
        num_artifacts=len(copied.artifacts),
        size_bytes=sum(sealed.size_bytes for sealed in copied.artifacts),
        new_bytes=sum(file.size_bytes for file in new),
        digests={
            LEDGER: place.put_part(id, LEDGER, ledger),
            ARTIFACTS: place.put_part(id, ARTIFACTS, _listed(copied, folder)),
        },
        has_secrets=with_secrets,
        missing=sorted(copied.vanished + copied.damaged),
    )
    place.finish(made)
    if not made.missing:
        store.backups.note()
    return made


def check(place: Place, backup: Backup, folder: Path) -> int:
    """Read all of it again; bytes of its objects. Raises CorruptArtifact, NotFound"""
    with place.lines(backup, LEDGER, folder) as lines:
        num_rows = sum(1 for line in lines if line.startswith("["))
    if num_rows != sum(backup.tables.values()):
        raise CorruptArtifact(f"backup {backup.id} holds {num_rows} rows of {sum(backup.tables.values())}")
    seen: dict[str, int] = {}
    with place.lines(backup, ARTIFACTS, folder) as lines:
        for sealed in files.parsed(lines):
            for file in sealed.files:
                if file.sha256 not in seen:
                    place.check_object(file)
                    seen[file.sha256] = file.size_bytes
    return sum(seen.values())


def prune(place: Place, keep: int, folder: Path, *, like: Backup) -> tuple[int, int]:
    """Let all but the newest `keep` go of the installation of `like`; numbers of backups and objects that went."""
    gone = [backup for backup in place.backups() if backup.storage_id == like.storage_id][keep:]
    for backup in gone:
        place.delete(backup)
    named: set[str] = set()
    for backup in place.backups():
        with place.lines(backup, ARTIFACTS, folder) as lines:
            named.update(file.sha256 for sealed in files.parsed(lines) for file in sealed.files)
    return len(gone), place.delete_objects_beside(named)


def _dump(store: Store, path: Path, with_secrets: bool) -> Dump:
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as file:
        return rows.dump(store.database, file, with_secrets=with_secrets)


def _copy(artifacts: ArtifactStore, place: Place, dump: Dump, say: Say) -> Copied:
    done = Copied()
    for uri, digest in dump.artifacts.items():
        try:
            sealed = files.contents(artifacts, uri, digest)
            _store(artifacts, place, sealed, done, say)
        except NotFound:
            done.vanished.append(uri)
        except CorruptArtifact as error:
            say(f"damaged, left out: {error}")
            done.damaged.append(uri)
    for uri in sorted(dump.mentioned - dump.artifacts.keys()):
        # Files that are told of and have gone are no loss: nothing opens them. Nor is what only looks like a URI.
        with suppress(NotFound, InvalidRequest, CorruptArtifact):
            _store(artifacts, place, files.contents(artifacts, uri, None), done, say)
    return done


def _store(artifacts: ArtifactStore, place: Place, sealed: Sealed, done: Copied, say: Say) -> None:
    written = files.store(artifacts, place, sealed)
    done.artifacts.append(sealed)
    done.written += written
    if written:
        say(f"{sealed.uri}: {len(written)} of {len(sealed.files)} files are new")


def _listed(copied: Copied, folder: Path) -> Path:
    path = folder / ARTIFACTS
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(files.line(sealed) for sealed in copied.artifacts)
    return path
