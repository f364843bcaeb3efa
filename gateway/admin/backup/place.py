"""Where backups lie: a folder or any other fsspec URL. Knows files and digests, nothing of what they mean."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec

from gateway.admin.backup import hold
from gateway.admin.backup.hold import Hold, Pace, Say
from shared.artifact import CHUNK_BYTES, CorruptArtifact, SealedFile
from shared.errors import InvalidRequest, NotFound

FORMAT = 1
MANIFEST = "backup.json"
DEFAULT_PACE = Pace()
LEDGER, ARTIFACTS = "ledger.jsonl.gz", "artifacts.jsonl.gz"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What backup.json says."""

    id: str
    #: RFC 3339.
    created_at: str
    #: Of the program that made it, and of the ledger's tables.
    version: str
    revision: str
    #: Of the storage whose artifacts these are.
    storage_id: str
    #: Rows by table.
    tables: dict[str, int]
    num_artifacts: int
    #: Of all files of its artifacts, written now or before.
    size_bytes: int
    #: Of those that this backup had to write.
    new_bytes: int
    #: sha256 of LEDGER and ARTIFACTS.
    digests: dict[str, str]
    has_secrets: bool
    #: URIs that a record names and whose files are not there, or are damaged.
    missing: list[str] = field(default_factory=list)
    format: int = FORMAT


class Place:
    def __init__(self, url: str) -> None:
        """Raises InvalidRequest"""
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as unknown:
            raise InvalidRequest(f"PLACE is {url!r} ({unknown}): name a folder, or s3://bucket/folder") from unknown
        self._is_local = isinstance(self._fs, fsspec.get_filesystem_class("file"))
        self._hold: Hold | None = None

    @contextlib.contextmanager
    def held(self, say: Say, pace: Pace = DEFAULT_PACE) -> Iterator[None]:
        """For one writer at a time. Raises Conflict."""
        if self._is_local:
            with hold.of_folder(Path(self._root), self.url):
                yield
            return
        with hold.of_store(self._fs, self._at(hold.NAME), self.url, pace, say) as self._hold:
            try:
                yield
            finally:
                self._hold = None

    def has(self, file: SealedFile) -> bool:
        """Whether an object of this digest and size lies here."""
        path = self._at(_object(file.sha256))
        return bool(self._fs.isfile(path) and self._fs.size(path) == file.size_bytes)

    def put_object(self, content: IO[bytes], file: SealedFile) -> None:
        """Copy, digest checked. Raises CorruptArtifact; nothing lies under the name then."""
        name = _object(file.sha256)
        found = self._write(name, _chunks(content))
        if found != file.sha256:
            self._fs.rm_file(self._at(name))
            raise CorruptArtifact(f"a file has sha256 {found}, sealed was {file.sha256}")

    def check_object(self, file: SealedFile) -> None:
        """Read it again. Raises CorruptArtifact, NotFound."""
        with self.open_object(file) as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != file.sha256:
            raise CorruptArtifact(f"{self.url}/{_object(file.sha256)} has sha256 {found}: the backup is damaged")

    def open_object(self, file: SealedFile) -> IO[bytes]:
        """Raises NotFound."""
        return self._open(_object(file.sha256))

    def put_part(self, id: str, name: str, local: Path) -> str:
        """LEDGER or ARTIFACTS of a backup; its sha256."""
        with open(local, "rb") as content:
            return self._write(f"backups/{id}/{name}", _chunks(content))

    @contextlib.contextmanager
    def lines(self, backup: Backup, name: str, scratch: Path) -> Iterator[Iterator[str]]:
        """The lines of a part, after its digest was checked. Raises CorruptArtifact, NotFound."""
        local = scratch / name
        with self._open(f"backups/{backup.id}/{name}") as source, open(local, "wb") as target:
            digest = _copied(_chunks(source), target)
        try:
            if digest != backup.digests[name]:
                raise CorruptArtifact(f"{name} of backup {backup.id} has sha256 {digest}: the backup is damaged")
            with gzip.open(local, "rt", encoding="utf-8") as file:
                yield iter(file)
        finally:
            local.unlink()

    def finish(self, backup: Backup) -> None:
        """Raises Conflict where another writer took the place over: it may have deleted what this one wrote."""
        self._check_hold()
        self._write(f"backups/{backup.id}/{MANIFEST}", [json.dumps(asdict(backup), indent=1).encode()])

    def backups(self) -> list[Backup]:
        """Those that were finished, newest first."""
        found = self._fs.glob(self._at(f"backups/*/{MANIFEST}"))
        made = [_parse(self._fs.cat_file(path)) for path in found]
        return sorted(made, key=lambda backup: backup.id, reverse=True)

    def backup(self, id: str | None) -> Backup:
        """The one of this id, or the newest. Raises NotFound."""
        made = self.backups()
        if not made:
            raise NotFound(f"there is no backup in {self.url}")
        if (found := next((backup for backup in made if id in (None, backup.id)), None)) is None:
            known = ", ".join(backup.id for backup in made[:5])
            raise NotFound(f"there is no backup {id!r} in {self.url}; there is {known}")
        return found

    def delete(self, backup: Backup) -> None:
        """Its manifest first: half a backup is none. Raises Conflict, as `finish`."""
        self._check_hold()
        self._fs.rm_file(self._at(f"backups/{backup.id}/{MANIFEST}"))
        self._fs.rm(self._at(f"backups/{backup.id}"), recursive=True)

    def delete_objects_beside(self, named: set[str]) -> int:
        """Objects of other digests than these; how many. Raises Conflict, as `finish`."""
        self._check_hold()
        gone = [path for path in self._fs.find(self._at("objects")) if path.rpartition("/")[2] not in named]
        for path in gone:
            self._fs.rm_file(path)
        return len(gone)

    def _check_hold(self) -> None:
        if self._hold is not None:
            self._hold.check()

    def _at(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"

    def _open(self, name: str) -> IO[bytes]:
        try:
            file: IO[bytes] = self._fs.open(self._at(name), "rb")
        except FileNotFoundError as error:
            raise NotFound(f"{self.url} lacks {name}: the backup is not whole") from error
        return file

    def _write(self, name: str, chunks: Iterable[bytes]) -> str:
        """Under its name at once and whole, readable for its owner alone; the sha256."""
        path = self._at(name)
        if not self._is_local:
            with self._fs.open(path, "wb") as file:
                return _copied(chunks, file)
        Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        beside = f"{path}.{os.urandom(4).hex()}.part"
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                digest = _copied(chunks, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            Path(beside).unlink(missing_ok=True)
        return digest


def _object(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(CHUNK_BYTES):
        yield chunk


def _copied(chunks: Iterable[bytes], target: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
        target.write(chunk)
    return sha256.hexdigest()


def _parse(text: bytes) -> Backup:
    values: dict[str, Any] = json.loads(text)
    if values.get("format") != FORMAT:
        raise InvalidRequest(
            f"backup {values.get('id')} has format {values.get('format')} and this version reads {FORMAT}: restore it "
            f"with the version that made it ({values.get('version')})"
        )
    return Backup(**values)
