"""Enough of the FlatBuffers encoding to read tables of a file that may be hostile.

Every access is checked against the bounds of the data, which is mapped and not loaded. No function
allocates more than what it gives back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

MOST_ITEMS = 1 << 16  # of a vector that is walked
MOST_TEXT = 1 << 12  # bytes of a string


class BadBufferError(Exception):
    """The data is no such buffer; the message says why."""


class Buffer:
    """Little-endian numbers at positions of a mapping, of which only `size` bytes count."""

    def __init__(self, data: mmap | bytes, size: int) -> None:
        self.data = data
        self.size = min(size, len(data))

    def number(self, position: int, width: int, *, signed: bool = False) -> int:
        """A number of `width` bytes.

        :raises BadBufferError: it lies outside.
        """
        return int.from_bytes(self.bytes(position, width), "little", signed=signed)

    def bytes(self, position: int, length: int) -> bytes:
        """Some bytes.

        :raises BadBufferError: they lie outside.
        """
        if position < 0 or length < 0 or position + length > self.size:
            raise BadBufferError("it refers to what lies outside of it")
        return self.data[position : position + length]

    def root(self) -> Table:
        """The table that a buffer begins with."""
        return Table(self, self.number(0, 4))


@dataclass(frozen=True)
class Table:
    """A table; its fields are counted from 0 in the order of the schema."""

    buffer: Buffer
    position: int

    def place(self, index: int) -> int | None:
        """Where a field's own value stands; None where it has its default."""
        buffer = self.buffer
        vtable = self.position - buffer.number(self.position, 4, signed=True)
        slot = 4 + 2 * index
        if slot + 2 > buffer.number(vtable, 2):
            return None
        offset = buffer.number(vtable + slot, 2)
        return self.position + offset if offset else None

    def number(self, index: int, width: int) -> int:
        """A field that is a number; 0 where it is left out."""
        place = self.place(index)
        return 0 if place is None else self.buffer.number(place, width)

    def text(self, index: int) -> str:
        """A field that is a string; empty where it is left out.

        :raises BadBufferError: it is too long.
        """
        place = self._followed(index)
        if place is None:
            return ""
        length = self.buffer.number(place, 4)
        if length > MOST_TEXT:
            raise BadBufferError("it holds a name of unreasonable length")
        return self.buffer.bytes(place + 4, length).decode("utf-8", "replace")

    def tables(self, index: int) -> Iterator[Table]:
        """A field that is a vector of tables.

        :raises BadBufferError: it has too many.
        """
        place = self._followed(index)
        if place is None:
            return
        count = self.buffer.number(place, 4)
        if count > MOST_ITEMS:
            raise BadBufferError("it holds a list of unreasonable length")
        for number in range(count):
            item = place + 4 + 4 * number
            yield Table(self.buffer, item + self.buffer.number(item, 4))

    def _followed(self, index: int) -> int | None:
        place = self.place(index)
        return None if place is None else place + self.buffer.number(place, 4)
