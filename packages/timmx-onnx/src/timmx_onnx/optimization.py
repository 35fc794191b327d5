"""What makes the graph faster in onnxruntime beyond what onnxruntime does by itself.

Little does: docs/formats/onnx.md has what was tried. A scale for each channel behind a linear layer
(LayerScale, a folded norm) is left by onnxruntime as a pass over the whole result; here it goes
into weight and bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value


def fold_scales(model: Model) -> int:
    """Put constant factors into the linear layers before them, in place.

    `(x @ weight + bias) * scale` becomes `x @ (weight * scale) + bias * scale`.

    :return: how many.
    """
    graph = model.graph
    folded = 0
    for node in list(graph):
        if node.op_type == "Mul" and not node.domain:
            folded += _fold(model, node)
    return folded


def _fold(model: Model, mul: Node) -> bool:
    found = _constant_and_other(mul)
    if found is None:
        return False
    scale, result = found
    add = _only_producer(result, "Add")
    bias: Value | None = None
    product = result
    if add is not None:
        parts = _constant_and_other(add)
        if parts is None:
            return False
        bias, product = parts
    matmul = _only_producer(product, "MatMul")
    if matmul is None or matmul.inputs[1] is None:
        return False
    weight = matmul.inputs[1]
    factor = _array(scale)
    if not _is_constant(weight) or not _fits(factor, weight, bias):
        return False
    matmul.replace_input_with(1, _scaled(model, weight, factor))
    if add is not None and bias is not None:
        add.replace_input_with(list(add.inputs).index(bias), _scaled(model, bias, factor))
    _take_out(model, mul, result)
    for value in (weight, bias, scale):
        if value is not None and not value.uses():
            model.graph.initializers.pop(str(value.name), None)
    return True


def _constant_and_other(node: Node) -> tuple[Value, Value] | None:
    a, b = node.inputs
    if a is None or b is None or _is_constant(a) == _is_constant(b):
        return None
    return (a, b) if _is_constant(a) else (b, a)


def _is_constant(value: Value) -> bool:
    return (
        value.is_initializer()
        and value.const_value is not None
        and value.dtype == ir.DataType.FLOAT
    )


def _array(value: Value) -> np.ndarray:
    assert value.const_value is not None
    array: np.ndarray = value.const_value.numpy()
    return array


def _only_producer(value: Value, kind: str) -> Node | None:
    """Who makes a value that nobody else uses."""
    node = value.producer()
    if node is None or node.op_type != kind or value.is_graph_output():
        return None
    return node if len(value.uses()) == 1 else None


def _fits(factor: np.ndarray, weight: Value, bias: Value | None) -> bool:
    """Whether the factor varies along the layer's outputs alone."""
    columns = _array(weight).shape
    if len(columns) != 2 or factor.shape[:-1] != (1,) * (factor.ndim - 1):
        return False
    wide = factor.size in (1, columns[1])
    return wide and (bias is None or _array(bias).shape in ((columns[1],), (1, columns[1])))


def _scaled(model: Model, value: Value, factor: np.ndarray) -> Value:
    array = (_array(value) * factor.reshape(-1)).astype(np.float32)
    name = f"{value.name}_scaled"
    while name in model.graph.initializers:
        name += "_"
    tensor = ir.Tensor(array, name=name)
    new = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(new)
    return new


def _take_out(model: Model, mul: Node, result: Value) -> None:
    """Let whoever used the product use what was multiplied."""
    output = mul.outputs[0]
    if output.is_graph_output():
        result.name, output.name = output.name, f"{output.name}_before"
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(mul, safe=True)
