"""A folder of the storage as one tar that is never written: what is asked of it is made while it is read.

Headers and file contents follow from the seal alone, so the archive has a known size and the same bytes every time,
and a download can begin anywhere. Read by one thread at a time.
"""

from __future__ import annotations

import bisect
import io
import tarfile
from collections.abc import Iterator
from typing import IO

from shared.artifact import ArtifactStore, Sealed, SealedFile

#: Tar writes in blocks of this size, and ends with two empty ones.
BLOCK = tarfile.BLOCKSIZE


class Archive(io.RawIOBase):
    def __init__(self, artifacts: ArtifactStore, sealed: Sealed, folder: str):
        """`folder` is what all files lie in when the archive is unpacked."""
        self._artifacts, self._uri = artifacts, sealed.uri
        #: Bytes as they are, or a file of the storage.
        self._parts: list[bytes | SealedFile] = [part for file in sealed.files for part in _member(file, folder)]
        self._parts.append(bytes(2 * BLOCK))
        self._starts, self.size_bytes = [], 0
        for part in self._parts:
            self._starts.append(self.size_bytes)
            self.size_bytes += _size(part)
        self._at = 0
        self._open: tuple[SealedFile, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Of one part only: less than asked is fine, nothing means the end."""
        if self._at >= self.size_bytes:
            return b""
        index = bisect.bisect_right(self._starts, self._at) - 1
        part, offset = self._parts[index], self._at - self._starts[index]
        most = _size(part) - offset if size < 0 else min(size, _size(part) - offset)
        piece = part[offset : offset + most] if isinstance(part, bytes) else self._content(part, offset).read(most)
        if not piece:
            raise EOFError(f"{self._uri} has lost a file while it was read")
        self._at += len(piece)
        return piece

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None
        super().close()

    def _content(self, file: SealedFile, offset: int) -> IO[bytes]:
        if self._open is None or self._open[0] != file:
            if self._open is not None:
                self._open[1].close()
            self._open = file, self._artifacts.open(f"{self._uri}/{file.path}")
        opened = self._open[1]
        if opened.tell() != offset:
            opened.seek(offset)
        return opened


def _member(file: SealedFile, folder: str) -> Iterator[bytes | SealedFile]:
    """Header, content, and zeros up to the next block; empty parts are left out."""
    told = tarfile.TarInfo(f"{folder}/{file.path}")
    told.size = file.size_bytes
    yield told.tobuf(tarfile.PAX_FORMAT)
    if file.size_bytes:
        yield file
    if rest := -file.size_bytes % BLOCK:
        yield bytes(rest)


def _size(part: bytes | SealedFile) -> int:
    return len(part) if isinstance(part, bytes) else part.size_bytes
