"""A digest of what a file computes: for `Backend.content_digest` of every format.

Parts are added one after the other, each with a name and its length, so that bytes which move from
one part into the next give another digest. Nothing is kept in memory.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from timmx_core.errors import ArtifactError
from timmx_core.reading.regular import open_regular

CHUNK = 1 << 20
# Of what an archive unpacks to, against what it takes: weights hardly shrink, and a few bytes of
# zeros from elsewhere must not keep us busy for hours.
MOST_GROWTH, FREE_GROWTH = 8, 64 << 20
# What zipfile raises for broken archives.
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, LookupError, OSError,
    OverflowError, RuntimeError, ValueError,
)  # fmt: skip


class ContentDigest:
    """A sha256 over named parts, in the order in which they are added.

    .. versionadded:: 0.1
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes | memoryview) -> None:
        """A part that is at hand."""
        self._begin(name, len(data))
        self._sha256.update(data)

    def add_file(self, name: str, path: Path, start: int = 0, end: int | None = None) -> None:
        """The bytes of a file, or those from `start` to `end`.

        :raises ArtifactError: there is no such file, or no such bytes in it.
        """
        if not path.is_file():  # a pipe would be read for ever
            raise ArtifactError(f"{path.name} is missing")
        with open_regular(path) as file:
            length = (path.stat().st_size if end is None else end) - start
            self.add_range(name, file, start, length)

    def add_range(self, name: str, file: BinaryIO, start: int, length: int) -> None:
        """Some bytes of an open file.

        :raises ArtifactError: it does not have them.
        """
        if start < 0 or length < 0:
            raise ArtifactError(f"{name} lies outside of its file")
        self._begin(name, length)
        file.seek(start)
        while length > 0:
            chunk = file.read(min(CHUNK, length))
            if not chunk:
                raise ArtifactError(f"{name} is cut off")
            self._sha256.update(chunk)
            length -= len(chunk)

    def add_archive(self, path: Path, without: Collection[str] = (), root: str = "") -> None:
        """The members of a zip file by their names, whatever their order, times and compression.

        :param without: names that are left out: the manifest's.
        :param root: what all names begin with, where that is the file's own name.
        :raises ArtifactError: it is none, or unpacks to more than it can hold.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                members = [i for i in archive.infolist() if i.filename not in without]
                total = sum(member.file_size for member in members)
                if total > MOST_GROWTH * path.stat().st_size + FREE_GROWTH:
                    raise ArtifactError(f"{path.name} unpacks to {total} bytes")
                for member in sorted(members, key=lambda m: (m.filename, m.header_offset)):
                    name = member.filename.removeprefix(root)
                    self._begin(name, member.file_size)
                    with archive.open(member) as file:
                        while chunk := file.read(CHUNK):
                            self._sha256.update(chunk)
        except UNREADABLE as error:
            raise ArtifactError(f"{path.name} cannot be read whole: {error}") from error

    def hexdigest(self) -> str:
        """Of all parts so far."""
        return self._sha256.hexdigest()

    def _begin(self, name: str, length: int) -> None:
        text = name.encode("utf-8", "surrogateescape")
        self._sha256.update(b"%d %s %d\n" % (len(text), text, length))
