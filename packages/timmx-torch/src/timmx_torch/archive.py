"""The zip archives that torch writes, read and extended without torch.

All members lie below one root folder, and only the source in a TorchScript file is compressed.
Nothing is read without a bound: `zipfile` reads a directory of any size, so its size is looked up
first.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from timmx_core.toolkit.content import ContentDigest

Kind = Literal["pt2", "torchscript"]

MANIFEST = "timmx.json"  # extra files
PORTS = "timmx-ports.json"
MAX_EXTRA = 64 << 20
MAX_DIRECTORY = 8 << 20  # a member takes about 100 bytes
END, END_SIZE = b"PK\x05\x06", 22
LOCATOR, LOCATOR_SIZE = b"PK\x06\x07", 20
END64, END64_SIZE = b"PK\x06\x06", 56
# What zipfile raises beside its own errors, at names, offsets and versions that make no sense.
UNREADABLE = (EOFError, OSError, OverflowError, RuntimeError, ValueError)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever the file is made


class BadArchive(ValueError):
    """Not an archive as torch writes it, or one beyond the limits."""


class Archive:
    """An open archive."""

    def __init__(self, file: BinaryIO, zipped: zipfile.ZipFile) -> None:
        self.file = file
        self.zipped = zipped
        self.members = {info.filename: info for info in zipped.infolist()}
        self.root = next(iter(self.members), "").partition("/")[0]

    @property
    def kind(self) -> Kind | None:
        """What torch wrote, by the members; None: another kind of zip file."""
        if f"{self.root}/archive_format" in self.members:
            return "pt2" if self.read("archive_format", 16) == b"pt2" else None
        if f"{self.root}/constants.pkl" in self.members and self.names("code/"):
            return "torchscript"
        return None

    def names(self, prefix: str = "") -> list[str]:
        """The members below the root folder that start with `prefix`, without the root."""
        start = f"{self.root}/"
        return [n[len(start) :] for n in self.members if n.startswith(start + prefix)]

    def read(self, name: str, limit: int) -> bytes | None:
        """A member's bytes; None where there is no such member.

        :raises BadArchive: it is larger than `limit`, or broken.
        """
        info = self.members.get(f"{self.root}/{name}")
        if info is None:
            return None
        if info.file_size > limit:
            raise BadArchive(f"{name} has {info.file_size} bytes, and {limit} are allowed")
        try:
            with self.zipped.open(info) as member:
                return member.read(info.file_size)
        except (zipfile.BadZipFile, zlib.error, *UNREADABLE) as error:
            raise BadArchive(f"{name} cannot be read: {error}") from error

    def extra_file(self, name: str) -> bytes | None:
        """An extra file; None where there is none of that name."""
        return self.read(f"extra/{name}", MAX_EXTRA)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive for reading.

    :raises BadArchive: not a zip file, or its directory is beyond the limits.
    """
    with path.open("rb") as file:
        offset, size = _directory(file)
        if size > MAX_DIRECTORY:
            raise BadArchive(f"a directory of {size} bytes, and {MAX_DIRECTORY} are allowed")
        try:
            zipped = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, struct.error, *UNREADABLE) as error:
            raise BadArchive(f"not a zip file: {error}") from error
        with zipped:
            if zipped.start_dir != offset:
                raise BadArchive("a zip file with two directories")
            yield Archive(file, zipped)


def add_extra(path: Path, name: str, data: bytes) -> None:
    """Append an extra file; nothing else of the archive is moved or read.

    :raises BadArchive: not an archive of torch's, or one that holds this extra file already.
    """
    with opened(path) as archive:
        root = archive.root
        if f"extra/{name}" in archive.names():
            raise BadArchive(f"{path.name} holds {name} already")
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr(zipfile.ZipInfo(f"{root}/extra/{name}", EPOCH), data)


def content_digest(path: Path) -> str:
    """sha256 of all members but the manifest.

    :raises BadArchive: not an archive of torch's.
    :raises ArtifactError: a member cannot be read.
    """
    with opened(path) as archive:
        root = f"{archive.root}/"
    digest = ContentDigest()
    digest.add_archive(path, without={f"{root}extra/{MANIFEST}"}, root=root)
    return digest.hexdigest()


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Offset and size in bytes of the archive's directory.

    `zipfile` tolerates what stands before an archive, and other readers do not, so that a file may
    have one directory for one and one for the others. Here there is one, right before the records
    at the end, and these are the file's last bytes: so torch writes them.

    :raises BadArchive: it is not so.
    """
    total = file.seek(0, 2)
    start = max(0, total - END_SIZE - LOCATOR_SIZE - END64_SIZE)
    file.seek(start)
    tail = file.read()
    position = len(tail) - END_SIZE
    if position < 0 or tail[position : position + 4] != END or tail[-2:] != b"\0\0":
        raise BadArchive("not a zip file, or something stands behind it")
    size, offset = struct.unpack_from("<LL", tail, position + 12)
    locator = position - LOCATOR_SIZE
    if locator >= 0 and tail[locator : locator + 4] == LOCATOR:
        position = locator - END64_SIZE
        if (
            position < 0
            or tail[position : position + 4] != END64
            or struct.unpack_from("<Q", tail, locator + 8)[0] != start + position
        ):
            raise BadArchive("a zip file whose last records contradict each other")
        size, offset = struct.unpack_from("<QQ", tail, position + 40)
    if offset + size != start + position:
        raise BadArchive("not a zip file, or something stands before it")
    return offset, size
