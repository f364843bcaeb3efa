"""The only reader and writer of artifacts: datasets, checkpoints, models. Records hold `store://` URIs, never paths.

The root is a folder (shared by the services of one machine, or a network file system) or any other fsspec URL, such as
S3. A sealed folder holds `manifest.json`, written last: a folder without it does not exist for readers. The digest of
the manifest is the digest of the folder. Nothing here knows what the files mean, who may see them, or when they may go.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from shared.errors import Conflict, InvalidRequest, NotFound, TunesmithError

SCHEME = "store://"
MANIFEST = "manifest.json"
#: Names a storage root; a job is claimed only where its files are.
ID_FILE = "storage-id"
CHUNK_BYTES = 4 * 1024**2
#: Fetched at once from a remote root by who reads a file as a stream; s3fs would take 50 MiB for each reader.
BLOCK_BYTES = 8 * 1024**2


class CorruptArtifact(TunesmithError):
    """The files of an artifact are not what was sealed."""

    code = "corrupt_artifact"


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    #: Relative to the folder, with slashes.
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What was put, as its record keeps it."""

    uri: str
    #: `sha256:<hex>` of the manifest, or of the one file.
    digest: str
    size_bytes: int
    files: tuple[SealedFile, ...]


class ArtifactStore:
    def __init__(self, storage_url: str, cache_dir: Path):
        # No listings cache: what another process has written must be seen.
        self._fs, self._root = fsspec.core.url_to_fs(storage_url, use_listings_cache=False)
        self._is_local = isinstance(self._fs, fsspec.get_filesystem_class("file"))
        self._cache = cache_dir

    @property
    def root(self) -> Path | None:
        """The folder that it is, which other machines may see, too; None: it is no folder."""
        return Path(self._root) if self._is_local else None

    def storage_id(self) -> str:
        """The name of this root, made up by whoever asks first."""
        path = self._at((ID_FILE,))
        self._fs.makedirs(self._root, exist_ok=True)
        with contextlib.suppress(FileExistsError), self._fs.open(path, "xb") as file:
            file.write(f"storage-{os.urandom(8).hex()}".encode())
        for _ in range(50):  # whoever made the file may not have written it yet
            if name := self._fs.cat_file(path).decode():
                return str(name)
            time.sleep(0.1)
        raise CorruptArtifact(f"{path} is empty: remove it, and the next service to start names the storage again")

    def check_writable(self) -> None:
        """Writes a small file and removes it. Raises OSError, or what a remote root raises."""
        path = self._at((f".probe-{os.urandom(4).hex()}",))
        self._fs.pipe_file(path, b"")
        self._fs.rm_file(path)

    def uri(self, *parts: str) -> str:
        uri = SCHEME + "/".join(parts)
        _split(uri)
        return uri

    def exists(self, uri: str) -> bool:
        """Whether a file, or a sealed folder, lies there."""
        path = self._at(_split(uri))
        return bool(self._fs.isfile(path) or self._fs.isfile(f"{path}/{MANIFEST}"))

    def open(self, uri: str, mode: str = "rb") -> IO[bytes]:
        """One file for reading. Raises NotFound."""
        if mode != "rb":
            raise ValueError("artifacts are written by put_file and put_folder only")
        try:
            file: IO[bytes] = self._fs.open(self._at(_split(uri)), "rb", block_size=BLOCK_BYTES)
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {uri} in the storage") from error
        return file

    def put_file(self, local: Path, uri: str, *, adopt: bool = False) -> Sealed:
        """Put one file in, under its name at once and whole; `adopt` as of put_folder."""
        parts = _split(uri)
        file = _digest(local, parts[-1])
        self._write(local, parts, adopt)
        return Sealed(uri=uri, digest=f"sha256:{file.sha256}", size_bytes=file.size_bytes, files=(file,))

    def put_folder(
        self, local: Path, uri: str, *, adopt: bool = False, skip: Callable[[str], bool] | None = None
    ) -> Sealed:
        """Seal a folder: its files, then the manifest. Putting the same again is fine, something else is a Conflict.

        `adopt`: the caller gives the files away; where the file system can, they get a second name instead of a copy,
        and become read-only. Never for files of a user. `skip`: paths within the folder that are left out.
        """
        parts = _split(uri)
        files = _digests(local, skip)
        manifest = _manifest(files)
        if self.exists(uri):
            if self._fs.cat_file(self._at((*parts, MANIFEST))) != manifest:
                raise Conflict(f"{uri} is sealed already and holds something else")
        else:
            for file in files:
                self._write(local / file.path, (*parts, *file.path.split("/")), adopt)
            self._fs.pipe_file(self._at((*parts, MANIFEST)), manifest)
        return _sealed(uri, manifest)

    def sealed(self, uri: str) -> Sealed:
        """The manifest of a sealed folder. Raises NotFound."""
        with self.open(f"{uri}/{MANIFEST}") as file:
            return _sealed(uri, file.read())

    def verify(self, uri: str) -> Sealed:
        """Read every file of a sealed folder again. Raises CorruptArtifact, NotFound."""
        sealed = self.sealed(uri)
        for file in sealed.files:
            with self.open(f"{uri}/{file.path}") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
            if found != file.sha256:
                raise CorruptArtifact(f"{uri}/{file.path} has sha256 {found}, sealed was {file.sha256}")
        return sealed

    def local_path(self, uri: str) -> Path:
        """Where a file or sealed folder can be read on this machine; fetched into the cache when the root is remote."""
        if not self.exists(uri):
            raise NotFound(f"{uri} is not in the storage")
        path = self._at(_split(uri))
        if self._is_local:
            return Path(path)
        if self._fs.isfile(path):
            info = self._fs.info(path)
            version = [str(info.get(key)) for key in ("size", "ETag", "etag", "mtime", "created", "LastModified")]
            return self._cached(uri, hashlib.sha256("\n".join([uri, *version]).encode()).hexdigest())
        return self._cached(uri, self.sealed(uri).digest.partition(":")[2])

    def verified_path(self, uri: str, digest: str) -> Path:
        """As local_path, and the files are those that had this digest. Raises CorruptArtifact, NotFound."""
        try:
            is_same = self.sealed(uri).digest == digest
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"the manifest of {uri} cannot be read: {error}") from error
        if not is_same:
            raise CorruptArtifact(f"the manifest of {uri} is another than the one that was sealed")
        if self._is_local:  # a copy is checked while it is made
            self.verify(uri)
        return self.local_path(uri)

    def delete(self, uri: str) -> None:
        """Remove a file or folder; the manifest goes first. What is not there is no error."""
        path = self._at(_split(uri))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._fs.rm_file(f"{path}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)

    def _at(self, parts: tuple[str, ...]) -> str:
        return "/".join((str(self._root).rstrip("/"), *parts))

    def _write(self, local: Path, parts: tuple[str, ...], adopt: bool) -> None:
        path = self._at(parts)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if not self._is_local:
            self._fs.put_file(str(local), path)
            return
        # Written beside and renamed: nobody reads half a file, and a full disk leaves nothing under the name.
        beside = f"{path}.{os.urandom(4).hex()}.part"
        try:
            _copy(local, beside, adopt)
            os.replace(beside, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)

    def _cached(self, uri: str, key: str) -> Path:
        place = self._cache / "artifacts" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        name = _split(uri)[-1]
        with _locked(place.with_suffix(".lock")):
            if not place.exists():
                beside = place.with_suffix(".part")
                shutil.rmtree(beside, ignore_errors=True)
                try:
                    self._fetch(uri, beside / name)
                    os.replace(beside, place)
                finally:
                    shutil.rmtree(beside, ignore_errors=True)
            os.utime(place)  # when it was last asked for
        return place / name

    def forget_unused(self, seconds: float) -> int:
        """Delete what was fetched to this machine and not asked for since; how many. Who has files open keeps them."""
        before, num = time.time() - seconds, 0
        for place in [place for place in (self._cache / "artifacts").glob("*") if place.is_dir()]:
            with _locked(place.with_suffix(".lock")), contextlib.suppress(FileNotFoundError):
                if place.stat().st_mtime < before:
                    shutil.rmtree(place)
                    num += 1
        return num

    def _fetch(self, uri: str, target: Path) -> None:
        path = self._at(_split(uri))
        target.parent.mkdir(parents=True)
        if self._fs.isfile(path):
            self._fs.get_file(path, str(target))
            return
        for file in self.sealed(uri).files:
            local = target / file.path
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{path}/{file.path}", str(local))
            if (found := _digest(local, file.path)) != file:
                raise CorruptArtifact(f"{uri}/{file.path} came with sha256 {found.sha256}, sealed was {file.sha256}")


def digest_of(folder: Path, skip: Callable[[str], bool] | None = None) -> str:
    """What put_folder would give as its digest. Raises NotFound where it holds nothing."""
    return f"sha256:{hashlib.sha256(_manifest(_digests(folder, skip))).hexdigest()}"


def _digests(folder: Path, skip: Callable[[str], bool] | None) -> tuple[SealedFile, ...]:
    files = tuple(_digest(path, name) for name, path in _walk(folder) if not (skip and skip(name)))
    if not files:
        raise NotFound(f"{folder} holds no files to publish")
    return files


def _manifest(files: Iterable[SealedFile]) -> bytes:
    return json.dumps({"schema_version": 1, "files": [asdict(file) for file in files]}, indent=1).encode()


def is_plain(path: str) -> bool:
    """Whether it is a relative path, with slashes, that leads nowhere else."""
    return all(_is_name(part) for part in path.split("/"))


def _split(uri: str) -> tuple[str, ...]:
    """The parts of a URI, each a plain name: no URI leads out of the root."""
    parts = tuple(uri.removeprefix(SCHEME).split("/"))
    if not uri.startswith(SCHEME) or not all(_is_name(part) for part in parts):
        raise InvalidRequest(f"{uri!r} is not a storage URI: expected store:// and plain names between slashes")
    return parts


def _is_name(part: str) -> bool:
    return part not in {"", ".", ".."} and not any(c in "\\:*?\0" or ord(c) < 32 for c in part)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below, sorted by name; links are followed as long as they stay inside."""
    root = folder.resolve()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(root):
            raise InvalidRequest(f"{name} in {folder} is a link to a file outside of it")
        if name != MANIFEST:  # of the artifact that the folder was copied from
            yield name, path


def _digest(path: Path, name: str) -> SealedFile:
    sha256, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            size += len(chunk)
    return SealedFile(path=name, size_bytes=size, sha256=sha256.hexdigest())


def _sealed(uri: str, manifest: bytes) -> Sealed:
    members: list[dict[str, Any]] = json.loads(manifest)["files"]
    files = tuple(SealedFile(**member) for member in members)
    for file in files:
        _split(SCHEME + file.path)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    return Sealed(uri=uri, digest=digest, size_bytes=sum(file.size_bytes for file in files), files=files)


def _copy(source: Path, target: str, adopt: bool) -> None:
    """Read-only, so that a seal holds."""
    is_linked = False
    if adopt:
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(source.resolve(), target)
            is_linked = True
    if not is_linked:
        shutil.copyfile(source, target)
    os.chmod(target, 0o444)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
