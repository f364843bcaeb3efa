"""Restoring a backup into an empty installation: files first, then the rows that name them, all or none of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.admin.backup import files, rows
from gateway.admin.backup.hold import Say
from gateway.admin.backup.place import ARTIFACTS, LEDGER, Backup, Place
from shared.artifact import ArtifactStore
from shared.errors import Conflict
from shared.store import Store
from shared.store.migrate import revisions

REASON = "the ledger was restored from a backup"


def restore(store: Store, artifacts: ArtifactStore, place: Place, backup: Backup, folder: Path, say: Say) -> int:
    """How many artifacts were written. Done again after it broke off, it goes on with the files.

    Raises Conflict, CorruptArtifact, NotFound
    """
    if backup.revision not in revisions():
        raise Conflict(
            f"backup {backup.id} was made by version {backup.version}, whose ledger (revision {backup.revision}) this "
            "version does not know: restore it with that version or a newer one"
        )
    rows.require_empty(store.database)
    with place.lines(backup, ARTIFACTS, folder) as lines:
        written = sum(_fetch(place, artifacts, lines, folder, say))
    with place.lines(backup, LEDGER, folder) as lines:
        here = _of_storage(lines, backup.storage_id, artifacts.storage_id())
        rows.load(store.database, here, backup.revision, backup.tables)
    let_go(store)
    return written


def let_go(store: Store) -> None:
    """Who held jobs and replicas belongs to the installation that was copied."""
    for job in store.attempts.held():
        store.attempts.reclaim(job.job_id, job.attempt, job.beat, REASON)
    for replica in store.replicas.held():
        store.replicas.reclaim(replica.replica_id, replica.attempt, replica.beat, REASON)


def _fetch(place: Place, artifacts: ArtifactStore, lines: Iterable[str], folder: Path, say: Say) -> Iterator[bool]:
    for sealed in files.parsed(lines):
        is_new = files.fetch(place, artifacts, sealed, folder)
        say(f"{sealed.uri}: {'restored' if is_new else 'is there'}")
        yield is_new


def _of_storage(lines: Iterable[str], before: str, now: str) -> Iterator[str]:
    """Records name the storage that has their files: it is this one now."""
    return (line.replace(f'"{before}"', f'"{now}"') for line in lines)
