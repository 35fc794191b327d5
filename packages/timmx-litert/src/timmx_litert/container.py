"""What timmx reads of and adds to a LiteRT file without loading it.

A LiteRT file is a flatbuffer, which runtimes read from its start; files that belong to it (labels,
the manifest) are a zip archive behind it, which archive readers find from its end. The flatbuffer
says in its metadata that there is one, so that a file that was cut off is known as one.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from timmx_core.toolkit.content import ContentDigest

IDENTIFIER = b"TFL3"
MARK = "timmx"  # an entry of the flatbuffer's metadata: an archive with the manifest follows
MANIFEST, LABELS = "timmx.json", "labels.txt"
MAX_MANIFEST = 64 << 20
MAX_ENTRIES = 64  # of metadata, and of files in the archive
MAX_NAME = 256

MODEL_METADATA, METADATA_NAME = 6, 0  # field numbers of the schema
WHEN = (1980, 1, 1, 0, 0, 0)


class BadFile(ValueError):
    """The bytes are not a whole LiteRT file, or one beyond the limits."""


def add_files(path: Path, manifest: bytes) -> None:
    """Put the manifest, and the labels that it names, behind the flatbuffer.

    What stood there in an earlier archive goes.
    """
    labels = _labels(manifest)
    files = {} if labels is None else {LABELS: labels}
    with path.open("r+b") as file:
        end = _archive_start(file)
        if end is not None:
            file.truncate(end)
    # `a` on what is no archive writes one behind it, with offsets from the start of the file.
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, data in (files | {MANIFEST: manifest}).items():
            archive.writestr(zipfile.ZipInfo(name, WHEN), data)


def read_manifest(path: Path) -> bytes | None:
    """The manifest; None where the file is no LiteRT file, or has none of timmx's.

    :raises BadFile: the file was cut off, or is not what it says it is.
    """
    with path.open("rb") as file:
        if file.read(8)[4:] != IDENTIFIER:
            return None
        if MARK not in _metadata_names(file):
            return None
        return _files(file, {MANIFEST: MAX_MANIFEST})[MANIFEST]


def content_digest(path: Path) -> str:
    """sha256 of the flatbuffer. The labels behind it are looked at, being in the manifest as well.

    :raises BadFile: the archive cannot be read, or its labels are not those of its manifest.
    """
    digest = ContentDigest()
    with path.open("rb") as file:
        end = _archive_start(file)
        digest.add_file("flatbuffer", path, 0, end)
        if end is not None:
            _check_labels(file)
    return digest.hexdigest()


def _check_labels(file: BinaryIO) -> None:
    """:raises BadFile: the file of labels says something else than the manifest."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except Exception as error:  # noqa: BLE001 (zipfile stumbles in many ways)
        raise BadFile(f"the files behind the model are damaged: {error}") from None
    if not {MANIFEST, LABELS} <= names:
        return
    held = _files(file, {MANIFEST: MAX_MANIFEST, LABELS: MAX_MANIFEST})
    if held[LABELS] != _labels(held[MANIFEST]):
        raise BadFile(f"its {LABELS} does not have the labels of the manifest")


def _labels(manifest: bytes) -> bytes | None:
    """The file of labels that goes with a manifest.

    :raises BadFile: it is no manifest.
    """
    try:
        labels = json.loads(manifest).get("labels")
        return "".join(f"{label}\n" for label in labels).encode() if labels else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadFile(f"its {MANIFEST} is damaged") from None


def _files(file: BinaryIO, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Files of the archive by name.

    :param wanted: the most bytes of each.
    :raises BadFile: there is no archive, or no such file in it.
    """
    result = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name, most in wanted.items():
                info = archive.getinfo(name)
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
                    raise BadFile(f"its {name} is not stored as timmx stores it")
                result[name] = archive.read(info)
    except BadFile:
        raise
    except KeyError as error:
        raise BadFile(f"the files behind the model are incomplete: {error.args[0]}") from None
    except Exception as error:  # noqa: BLE001 (zipfile stumbles in many ways)
        raise BadFile(
            f"it is cut off, or the files behind the model are damaged: {error}"
        ) from None
    return result


def _archive_start(file: BinaryIO) -> int | None:
    """Where an archive behind the flatbuffer begins; None where there is none."""
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            starts = [info.header_offset for info in archive.infolist()]
            return min(starts, default=archive.start_dir)
    except Exception as error:  # noqa: BLE001 (zipfile stumbles in many ways)
        raise BadFile(f"the files behind the model are damaged: {error}") from None


# ---------------------------------------------------------------- the flatbuffer


def _metadata_names(file: BinaryIO) -> set[str]:
    """The names of the model's metadata entries.

    :raises BadFile: an offset leads out of the file, or there are too many of them.
    """
    reader = _Reader(file)
    vector = reader.field(reader.offset(0), MODEL_METADATA)
    if vector is None:
        return set()
    start = reader.offset(vector)
    count = reader.number(start)
    if count > MAX_ENTRIES:
        raise BadFile(f"{count} entries of metadata")
    names = set()
    for index in range(count):
        place = reader.field(reader.offset(start + 4 + 4 * index), METADATA_NAME)
        if place is not None:
            names.add(reader.text(reader.offset(place)))
    return names


class _Reader:
    """Follows offsets of one flatbuffer, reading nothing but them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def field(self, table: int, number: int) -> int | None:
        """Where a field of a table lies; None where it has its default."""
        fields = table - self._unpack("<i", table)
        size = self._unpack("<H", fields)
        place = 4 + 2 * number
        if place + 2 > size:
            return None
        offset = self._unpack("<H", fields + place)
        return table + offset if offset else None

    def offset(self, place: int) -> int:
        """Where the offset at `place` leads."""
        return place + self.number(place)

    def number(self, place: int) -> int:
        return self._unpack("<I", place)

    def text(self, place: int) -> str:
        size = self.number(place)
        if size > MAX_NAME:
            raise BadFile(f"a name of {size} bytes")
        return self._bytes(place + 4, size).decode("utf-8", "replace")

    def _unpack(self, kind: str, place: int) -> int:
        (value,) = struct.unpack(kind, self._bytes(place, struct.calcsize(kind)))
        return int(value)

    def _bytes(self, place: int, size: int) -> bytes:
        if place < 0:
            raise BadFile("an offset leads out of the file")
        self.file.seek(place)
        data = self.file.read(size)
        if len(data) != size:
            raise BadFile("it is cut off")
        return data
