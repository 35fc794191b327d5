"""The first bytes of an engine of TensorRT for RTX: its version and its length.

That much can be read without the library and without a GPU, and it is what makes most engines
unusable elsewhere.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from timmx_core.errors import ArtifactError

MAGIC = b"vtrt"
LAYOUT = struct.Struct("<4s12xQ4B")  # magic, length of the file, version


@dataclass(frozen=True)
class Header:
    """What an engine says of itself at its start."""

    version: str  # of the library that built it: "1.7.1.116"
    size: int  # bytes of the whole file


def read_header(path: Path) -> Header:
    """The header of an engine.

    :raises ArtifactError: it is none, or it is cut off.
    """
    with path.open("rb") as file:
        data = file.read(LAYOUT.size)
    if len(data) < LAYOUT.size or not data.startswith(MAGIC):
        raise ArtifactError(f"{path.name} is not an engine of TensorRT-RTX")
    _, size, *version = LAYOUT.unpack(data)
    there = path.stat().st_size
    if there != size:
        raise ArtifactError(f"{path.name} has {there} bytes, and its header says {size}")
    return Header(".".join(str(number) for number in version), size)
