"""Repeated numbers of a message as arrays."""

from __future__ import annotations

import numpy as np

from timmx_coreml.mil import wire
from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.wire import Budget, Fields


def numbers(fields: Fields, number: int, dtype: str, budget: Budget) -> np.ndarray:
    """A repeated scalar field, packed or not: `float32`, `float64`, `int32`, `int64`, `bool`."""
    values = fields.get(number, [])
    if dtype in ("float32", "float64"):
        return _floats(values, dtype)
    # The usual case: small non-negative numbers, a byte each.
    if len(values) == 1 and isinstance(values[0], memoryview):
        raw = np.frombuffer(values[0], dtype=np.uint8)
        if not (raw & 0x80).any():
            return raw.astype(dtype)
    return np.array(wire.integers(fields, number, budget), dtype=np.int64).astype(dtype)


def _floats(values: list[int | memoryview], dtype: str) -> np.ndarray:
    parts = [np.zeros(0, dtype)]
    for value in values:
        if isinstance(value, int) or len(value) % np.dtype(dtype).itemsize:
            raise ProgramError("the model description is damaged: a list of numbers is cut off")
        parts.append(np.frombuffer(value, dtype=np.dtype(dtype).newbyteorder("<")))
    return np.asarray(np.concatenate(parts), dtype)
