"""The types of MIL, and in which torch type their values are carried.

fp16 is carried as float32 whose values are fp16 numbers: every operation computes in float32 and
its result is rounded once, to the precision that the program declares for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation

# Number in the file -> name, as MIL writes it.
NAMES = {
    1: "bool",
    2: "string",
    10: "fp16",
    11: "fp32",
    12: "fp64",
    13: "bf16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
FLOATS = frozenset({"fp16", "fp32", "fp64"})

_STORED: dict[str, tuple[int, str]] = {
    # bits in the weight file, numpy type of one element there (sub-byte ones are unpacked)
    "bool": (8, "bool"),
    "fp16": (16, "float16"),
    "fp32": (32, "float32"),
    "fp64": (64, "float64"),
    "int8": (8, "int8"),
    "int16": (16, "int16"),
    "int32": (32, "int32"),
    "int64": (64, "int64"),
    "uint8": (8, "uint8"),
    "uint16": (16, "uint16"),
    "uint32": (32, "uint32"),
    "uint64": (64, "uint64"),
    "int4": (4, "int8"),
    "uint1": (1, "uint8"),
    "uint2": (2, "uint8"),
    "uint3": (3, "uint8"),
    "uint4": (4, "uint8"),
    "uint6": (6, "uint8"),
}
_CARRIERS = {
    "bool": torch.bool,
    "fp16": torch.float32,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
}


@dataclass(frozen=True)
class TensorType:
    """A tensor or scalar. A dimension is None where the program leaves it open."""

    dtype: str
    shape: tuple[int | None, ...]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape is of this type."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ListType:
    """A list of strings or of tensors."""

    element: Type | None = None


@dataclass(frozen=True)
class DictType:
    """A dictionary, as a classifier gives."""


Type = TensorType | ListType | DictType


def bits(dtype: str) -> int:
    """How many bits one element takes in the weight file."""
    return _stored(dtype)[0]


def stored(dtype: str) -> np.dtype:
    """numpy's type of one element; for sub-byte types of one unpacked element."""
    return np.dtype(_stored(dtype)[1])


def _stored(dtype: str) -> tuple[int, str]:
    if dtype not in _STORED:
        raise UnsupportedOperation(f"numbers of type {dtype}")
    return _STORED[dtype]


def carrier(dtype: str) -> torch.dtype:
    """The torch type in which values of this type are carried."""
    if dtype not in _CARRIERS:
        raise UnsupportedOperation(f"numbers of type {dtype}")
    return _CARRIERS[dtype]


def to_carrier(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A stored array as a tensor; values are unchanged."""
    want = carrier(dtype)
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, copy=True, order="C")).to(want)


def to_numpy(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """A carried tensor as the array that the program declares."""
    return np.asarray(tensor.numpy().astype(stored(dtype)))


def unpack(raw: np.ndarray, dtype: str, count: int) -> np.ndarray:
    """`count` elements of fewer than eight bits, least significant bit first.

    :raises ProgramError: where `raw` (uint8) does not hold exactly as many.
    """
    width = bits(dtype)
    if raw.size != math.ceil(count * width / 8):
        raise ProgramError(
            f"{count} numbers of {width} bits take {math.ceil(count * width / 8)} bytes, "
            f"not {raw.size}"
        )
    if width == 4:  # the usual case, without the detour over single bits
        values = np.empty(raw.size * 2, np.uint8)
        values[0::2], values[1::2] = raw & 15, raw >> 4
        values = values[:count]
    else:
        flat = np.unpackbits(raw, bitorder="little")[: count * width].reshape(count, width)
        weights = (1 << np.arange(width)).astype(np.uint8)
        values = (flat * weights).sum(axis=1, dtype=np.uint8)
    if dtype.startswith("int"):
        signed = values.astype(np.int16)
        return np.where(signed >= 1 << (width - 1), signed - (1 << width), signed).astype(np.int8)
    return values
