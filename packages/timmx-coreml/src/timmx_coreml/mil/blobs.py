"""The weight file of a package: a header, then blobs with a 64-byte description each."""

from __future__ import annotations

import mmap
import stat
import struct
from pathlib import Path

import numpy as np

from timmx_coreml.mil import types
from timmx_coreml.mil.errors import ProgramError

_SENTINEL = 0xDEADBEEF
_METADATA = struct.Struct("<IIQQQ")  # sentinel, type, size in bytes, offset, padding in bits
_CODES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    5: "bf16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


class WeightFile:
    """A weight file, mapped into memory and read with every offset checked."""

    def __init__(self, path: Path) -> None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for for ever
                raise ProgramError(f"{path.name} is no file")
            with path.open("rb") as file:
                size = path.stat().st_size
                if size < 64:
                    raise ProgramError(f"{path.name} is too short for a weight file")
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise ProgramError(f"{path.name} cannot be read: {error.strerror}") from error
        self._name = path.name
        version = struct.unpack_from("<II", self._data)[1]
        if version != 2:
            raise ProgramError(f"{path.name} is a weight file of version {version}, not 2")

    def read(self, offset: int, dtype: str, count: int) -> np.ndarray:
        """The `count` elements that the description at `offset` points to (not copied).

        :raises ProgramError: where they are not there, of another type, or not as many.
        """
        if not 64 <= offset <= len(self._data) - 64:
            raise ProgramError(f"{self._name} ends before offset {offset}")
        sentinel, code, size, start, _ = _METADATA.unpack_from(self._data, offset)
        if sentinel != _SENTINEL:
            raise ProgramError(f"{self._name} holds no weights at offset {offset}")
        if start > len(self._data) or size > len(self._data) - start:
            raise ProgramError(f"{self._name} is truncated: weights end at {start + size}")
        found = _CODES.get(code, f"number {code}")
        if found != dtype and not (dtype == "bool" and found == "uint8"):
            raise ProgramError(f"weights at offset {offset} are {found}, the program says {dtype}")
        raw = self._data[start : start + size]
        width = types.bits(dtype)
        if width < 8:
            return types.unpack(np.frombuffer(raw, np.uint8), dtype, count)
        if size != count * width // 8:
            raise ProgramError(
                f"weights at offset {offset} are {size} bytes, the program wants "
                f"{count} numbers of {width} bits"
            )
        return np.frombuffer(raw, types.stored(dtype))
