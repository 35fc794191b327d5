"""What timmx reads of and adds to an ExecuTorch program without loading it.

A `.pte` file is a FlatBuffers table, the program, and behind it segments of data: constants, what
the delegates are given, and *named data*. A manifest is a named datum of its own: the export
leaves a segment for it at the end of the file, and `write_manifest` lets that segment be as long as
it needs. So it belongs to the program, and the runtime gives it to whoever asks for its name.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from timmx_core.toolkit.content import ContentDigest
from timmx_executorch.flatbuffer import BadBufferError, Buffer, Table

KEY = "timmx"
PLACEHOLDER = b"timmx manifest".ljust(64, b"\0")
MAX_MANIFEST = 64 << 20

MAGIC, VERSION = b"ET12", 0  # of the FlatBuffers schema, and of what the program means
HEADER_AT, HEADER_MAGIC, HEADER_LENGTH = 8, b"eh00", 32
SEGMENT_SIZE_AT = HEADER_AT + 24

# Fields of program.fbs, counted from 0.
PROGRAM_VERSION, PROGRAM_PLANS, PROGRAM_SEGMENTS, PROGRAM_NAMED = 0, 1, 4, 7
PLAN_NAME, PLAN_OPERATORS, PLAN_DELEGATES = 0, 6, 7
DELEGATE_ID = 0
SEGMENT_OFFSET, SEGMENT_SIZE = 0, 1
NAMED_KEY, NAMED_SEGMENT = 0, 1


class BadProgramError(Exception):
    """A program that cannot be read; the message says why, and begins with "it"."""


@dataclass(frozen=True)
class Segment:
    """A segment's place in the file, and where the program states its size."""

    start: int
    size: int
    size_place: int | None
    last: bool  # nothing but padding stands behind it


@dataclass(frozen=True)
class Header:
    """What a program states of itself."""

    methods: tuple[str, ...]
    delegates: tuple[str, ...]  # what runs parts of it: "XnnpackBackend", ...
    manifest: Segment | None


def is_program(path: Path) -> bool:
    """Whether a file begins as ExecuTorch programs of any version do."""
    with path.open("rb") as file:
        head = file.read(HEADER_AT)
    return len(head) == HEADER_AT and re.fullmatch(rb"ET[0-9A-Za-z]{2}", head[4:8]) is not None


def read_header(path: Path) -> Header:
    """Read methods, delegates, and where the manifest stands.

    :raises BadProgramError: it is none, one of another version, or cut off.
    """
    with _mapped(path) as data:
        return _header(data)


def read_manifest(path: Path) -> bytes | None:
    """The manifest, None where the program has none.

    :raises BadProgramError: see `read_header`.
    """
    with _mapped(path) as data:
        segment = _header(data).manifest
        if segment is None:
            return None
        if segment.size > MAX_MANIFEST:
            raise BadProgramError("it holds a manifest of unreasonable length")
        found = data[segment.start : segment.start + segment.size]
        return None if found == PLACEHOLDER else found


def write_manifest(path: Path, manifest: bytes) -> bool:
    """Put `manifest` where the export left room for it.

    :return: False where it left none.
    :raises BadProgramError: see `read_header`.
    """
    with _mapped(path) as data:
        segment = _header(data).manifest
        base = _number(data, HEADER_AT + 16)
    if segment is None or segment.size_place is None or not segment.last:
        return False
    with path.open("r+b") as file:
        file.seek(segment.size_place)
        file.write(len(manifest).to_bytes(8, "little"))
        file.seek(SEGMENT_SIZE_AT)
        file.write((segment.start + len(manifest) - base).to_bytes(8, "little"))
        file.seek(segment.start)
        file.write(manifest)
        file.truncate()
    return True


def content_digest(path: Path) -> str:
    """sha256 of all but the manifest, and the two places that say how long it is.

    :raises BadProgramError: see `read_header`.
    """
    digest = ContentDigest()
    with _mapped(path) as data:
        segment = _header(data).manifest
        if segment is None or not segment.last:
            digest.add_file("program", path)
            return digest.hexdigest()
    places = {SEGMENT_SIZE_AT: 8}
    if segment.size_place is not None:
        places[segment.size_place] = 8
    start = 0
    for place, width in sorted(places.items()):
        digest.add_file(f"from {start}", path, start, place)
        start = place + width
    digest.add_file(f"from {start}", path, start, segment.start)
    return digest.hexdigest()


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise BadProgramError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _header(data: mmap.mmap) -> Header:
    try:
        return _parse(data)
    except BadBufferError as error:
        raise BadProgramError(str(error)) from error


def _parse(data: mmap.mmap) -> Header:
    magic = data[4:8]
    if magic != MAGIC:
        if re.fullmatch(rb"ET[0-9A-Za-z]{2}", magic):
            raise BadProgramError(
                f"it is of version {magic.decode()} of the format, and this one reads "
                f"{MAGIC.decode()}"
            )
        raise BadProgramError("it does not begin as one")
    if len(data) < HEADER_AT + HEADER_LENGTH or data[8:12] != HEADER_MAGIC:
        raise BadProgramError("it has no header that says where its data lies")
    if _number(data, HEADER_AT + 4, 4) < HEADER_LENGTH:
        raise BadProgramError("its header is of an older version")
    size, base, behind = (_number(data, HEADER_AT + at) for at in (8, 16, 24))
    if size > len(data) or base + behind > len(data):
        missing = max(size, base + behind) - len(data)
        raise BadProgramError(f"it is cut off: {missing} bytes are missing")
    program = Buffer(data, size).root()
    version = program.number(PROGRAM_VERSION, 4)
    if version != VERSION:
        raise BadProgramError(f"its program is of version {version}, and this one reads {VERSION}")
    plans = list(program.tables(PROGRAM_PLANS))
    delegates = {d.text(DELEGATE_ID) for plan in plans for d in plan.tables(PLAN_DELEGATES)}
    segments = list(program.tables(PROGRAM_SEGMENTS))
    for segment in segments:
        if segment.number(SEGMENT_OFFSET, 8) + segment.number(SEGMENT_SIZE, 8) > behind:
            raise BadProgramError("one of its segments lies outside of it")
    named = {n.text(NAMED_KEY): n.number(NAMED_SEGMENT, 4) for n in program.tables(PROGRAM_NAMED)}
    return Header(
        methods=tuple(plan.text(PLAN_NAME) for plan in plans),
        delegates=tuple(sorted(delegates)),
        manifest=_segment(segments, named[KEY], base, behind) if KEY in named else None,
    )


def _segment(segments: list[Table], index: int, base: int, behind: int) -> Segment:
    if index >= len(segments):
        raise BadProgramError("its manifest is in a segment that it does not have")
    table = segments[index]
    start, size = table.number(SEGMENT_OFFSET, 8), table.number(SEGMENT_SIZE, 8)
    others = (t.number(SEGMENT_OFFSET, 8) for i, t in enumerate(segments) if i != index)
    last = start + size >= behind and all(other <= start for other in others)
    return Segment(base + start, size, table.place(SEGMENT_SIZE), last)


def _number(data: mmap.mmap, position: int, width: int = 8) -> int:
    return int.from_bytes(data[position : position + width], "little")
