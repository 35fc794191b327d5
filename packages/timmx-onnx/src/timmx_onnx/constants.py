"""Constants of a graph: what one holds, and a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ir import Model, Value


def array_of(value: Value) -> np.ndarray:
    """What an initializer holds."""
    assert value.const_value is not None
    array: np.ndarray = value.const_value.numpy()
    return array


def add_initializer(model: Model, name: str, array: np.ndarray) -> Value:
    """A new initializer of a graph, under a name that no other has."""
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value
