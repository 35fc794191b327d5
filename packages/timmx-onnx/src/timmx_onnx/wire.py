"""A reader of the protobuf wire format that skips what it is not asked for by seeking.

It reads ONNX files without onnx, onnxruntime or protobuf, and without trusting them: a length
that leaves its message, a varint that does not end and an endless list of fields are errors, and
only the payloads that a caller asks for are read, up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 2_000_000  # in one file; a model of 10,000 nodes has about 100,000


class WireError(ValueError):
    """The bytes are not a protobuf message, or one beyond the limits."""


@dataclass(frozen=True)
class Field:
    """One field: `value` of a number, or where the payload of `length` bytes starts."""

    number: int
    kind: int
    key_offset: int  # where the field's key starts
    offset: int  # where the payload starts
    length: int  # of the payload
    value: int = 0

    @property
    def end(self) -> int:
        """The offset after the field."""
        return self.offset + self.length


class WireReader:
    """Walks the messages of one file, within one budget of fields."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.budget = MAX_FIELDS

    def fields(self, start: int = 0, end: int | None = None) -> Iterator[Field]:
        """The fields of the message at [start, end), their payloads unread.

        :raises WireError: the bytes are not such a message.
        """
        limit = self.size if end is None else end
        position = start
        while position < limit:
            self.budget -= 1
            if self.budget < 0:
                raise WireError(f"more than {MAX_FIELDS} fields")
            self.file.seek(position)
            field = self._field(position, limit)
            position = field.end
            yield field

    def payload(self, field: Field, limit: int) -> bytes:
        """The bytes of a length-delimited field.

        :param limit: bytes beyond which the field is refused.
        :raises WireError: too long, or not length-delimited.
        """
        if field.kind != BYTES:
            raise WireError(f"field {field.number} at byte {field.key_offset} holds no bytes")
        if field.length > limit:
            raise WireError(f"a field of {field.length} bytes where {limit} are allowed")
        self.file.seek(field.offset)
        data = self.file.read(field.length)
        if len(data) != field.length:
            raise WireError("the file ends within a field")
        return data

    def _field(self, position: int, limit: int) -> Field:
        key, used = self._varint()
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError(f"no field number at byte {position}")
        offset = position + used
        value = length = 0
        if kind == VARINT:
            value, length = self._varint()
        elif kind == BYTES:
            length, used = self._varint()
            offset += used
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise WireError(f"unknown wire type {kind} at byte {position}")
        if offset + length > limit:
            raise WireError(f"the field at byte {position} is longer than its message")
        return Field(number, kind, position, offset, length, value)

    def _varint(self) -> tuple[int, int]:
        value = 0
        for used in range(10):
            byte = self.file.read(1)
            if not byte:
                raise WireError("the file ends within a number")
            value |= (byte[0] & 0x7F) << (7 * used)
            if byte[0] < 0x80:
                return value, used + 1
        raise WireError("a number of more than ten bytes")


def varint(value: int) -> bytes:
    """`value` (not negative) as protobuf writes it."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def bytes_header(number: int, length: int) -> bytes:
    """The key and length that stand before a payload of `length` bytes."""
    return varint(number << 3 | BYTES) + varint(length)


def bytes_field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: a string, bytes or a message."""
    return bytes_header(number, len(payload)) + payload
