"""Protocol-buffer wire format: just enough to read a Core ML model without its converter.

A message is a mapping from field number to the raw values seen, in order: `int` for varints and
`memoryview` for everything else. Nothing is copied and nothing nested is decoded before it is
asked for, so skipping hundreds of megabytes of weights costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from timmx_coreml.mil.errors import ProgramError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Fields = dict[int, list["int | memoryview"]]


@dataclass
class Budget:
    """How many fields may still be decoded: bounds time and memory on a hostile file."""

    fields: int = 8_000_000

    def spend(self) -> None:
        """Count one field."""
        self.fields -= 1
        if self.fields < 0:
            raise ProgramError("the model description has more fields than any real model")


def decode(data: memoryview, budget: Budget) -> Fields:
    """The fields of one message; nested messages stay undecoded.

    :raises ProgramError: where the bytes are no message.
    """
    fields: Fields = {}
    position, end = 0, len(data)
    while position < end:
        budget.spend()
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == _VARINT:
            value, position = _varint(data, position)
        else:
            if kind == _BYTES:
                size, position = _varint(data, position)
            elif kind == _FIXED32:
                size = 4
            elif kind == _FIXED64:
                size = 8
            else:
                raise ProgramError(f"the model description is damaged: wire type {kind}")
            if size > end - position:
                raise ProgramError("the model description is truncated")
            value = data[position : position + size]
            position += size
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    try:
        byte = data[position]
        if byte < 0x80:
            return byte, position + 1
        result, shift = byte & 0x7F, 7
        while True:
            position += 1
            byte = data[position]
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFFFFFFFFFFFFFF, position + 1
            shift += 7
            if shift > 63:
                raise ProgramError("the model description is damaged: a number of over 64 bits")
    except IndexError:
        raise ProgramError("the model description is truncated") from None


def integer(fields: Fields, number: int, default: int = 0) -> int:
    """The last varint of a field, as a signed 64-bit number."""
    values = fields.get(number)
    if not values:
        return default
    value = values[-1]
    if not isinstance(value, int):
        raise ProgramError(f"the model description is damaged: field {number} is no number")
    return value - (1 << 64) if value >= 1 << 63 else value


def blob(fields: Fields, number: int) -> memoryview | None:
    """The last length-delimited value of a field; None where it is absent."""
    values = blobs(fields, number)
    return values[-1] if values else None


def blobs(fields: Fields, number: int) -> list[memoryview]:
    """Every length-delimited value of a repeated field."""
    values = fields.get(number, [])
    result = [value for value in values if isinstance(value, memoryview)]
    if len(result) != len(values):
        raise ProgramError(f"the model description is damaged: field {number} is a number")
    return result


def text(data: memoryview | None) -> str:
    """A string field."""
    if data is None:
        return ""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise ProgramError("the model description is damaged: a name is no text") from None


def integers(fields: Fields, number: int, budget: Budget) -> list[int]:
    """A repeated whole number, packed or not."""
    values: list[int] = []
    for value in fields.get(number, []):
        values += [value] if isinstance(value, int) else _packed(value, budget)
    return [v - (1 << 64) if v >= 1 << 63 else v for v in values]


def _packed(data: memoryview, budget: Budget) -> list[int]:
    values, position = [], 0
    while position < len(data):
        budget.spend()
        value, position = _varint(data, position)
        values.append(value)
    return values
