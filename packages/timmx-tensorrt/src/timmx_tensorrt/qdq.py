"""QuantizeLinear and DequantizeLinear around layers: as TensorRT wants them, and what they mean.

`to_float8` turns those of int8 into float8. `emulate` gives the graph that computes in float32 what
a quantized one means: onnxruntime's kernels do something else here and there, and for float8 it has
next to none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from timmx_onnx.constants import add_initializer, array_of

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value

FLOAT, FLOAT8 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN
INT8_LARGEST, FLOAT8_LARGEST = 127.0, 448.0
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def products_of_activations(model: Model) -> list[str]:
    """Names of matrix products without a weight, those of attention above all.

    They stay in float: their kernels fuse with the softmax between them, which int8 would part.
    """
    return [
        str(node.name)
        for node in model.graph
        if node.op_type == "MatMul" and not any(_constant(v) for v in node.inputs)
    ]


def _constant(value: Value | None) -> bool:
    return value is not None and value.const_value is not None


def to_float8(model: Model, weights: Mapping[str, np.ndarray]) -> None:
    """Replace int8 by float8 (e4m3), in place; the ranges stay the same.

    :param weights: those of the float graph, by name.
    """
    scales: dict[str, Value] = {}
    zeros: dict[tuple[int, ...], Value] = {}
    for node in list(model.graph):
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        scale = node.inputs[1]
        assert scale is not None
        name = f"{scale.name}_float8"
        if name not in scales:
            array = array_of(scale) * np.float32(INT8_LARGEST / FLOAT8_LARGEST)
            scales[name] = add_initializer(model, name, array)
        new = scales[name]
        shape = array_of(new).shape
        if shape not in zeros:
            text = "x".join(str(n) for n in shape) or "scalar"
            zero = np.zeros(shape, FLOAT8.numpy())
            zeros[shape] = add_initializer(model, f"float8_zero_{text}", zero)
        node.replace_input_with(1, new)
        node.replace_input_with(2, zeros[shape])
        if node.op_type == QUANTIZE:
            node.outputs[0].type = ir.TensorType(FLOAT8)
        elif _constant(node.inputs[0]):
            _weight_to_float8(model, node, weights)
    _sweep(model)


def _weight_to_float8(model: Model, node: Node, weights: Mapping[str, np.ndarray]) -> None:
    stored = node.inputs[0]
    assert stored is not None
    array = weights[str(stored.name).removesuffix("_quantized")]
    small = (array / _scale_of(node, array.ndim)).astype(FLOAT8.numpy())
    name = f"{stored.name}_float8"
    value = model.graph.initializers.get(name) or add_initializer(model, name, small)
    node.replace_input_with(0, value)


def _scale_of(node: Node, rank: int) -> np.ndarray:
    """A node's scale, so that it multiplies what it belongs to."""
    assert node.inputs[1] is not None
    scale = array_of(node.inputs[1])
    if not scale.ndim:
        return scale
    attribute = node.attributes.get("axis")
    axis = (attribute.value if attribute is not None else 1) % rank
    return scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def emulate(model: Model) -> Model:
    """The graph that computes in float32 what a quantized one means; the given one stays."""
    model = model.clone()
    for node in list(model.graph):
        if node.op_type == DEQUANTIZE:
            _widen(model, node)
    for node in list(model.graph):
        if node.op_type == QUANTIZE:
            _round(model, node)
    _sweep(model)
    model.graph.sort()
    return model


def _widen(model: Model, node: Node) -> None:
    """A weight is written out; anything else is multiplied with its scale."""
    stored, scale, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert stored is not None
    if _constant(stored):
        small = array_of(stored).astype(np.float32)
        wide = add_initializer(
            model, f"{result.name}_written_out", small * _scale_of(node, small.ndim)
        )
        result.replace_all_uses_with(wide)
        model.graph.remove(node, safe=True)
        return
    product = ir.node("Mul", [stored, scale], name=f"{node.name}_emulated")
    _take_over(model, node, product)


def _round(model: Model, node: Node) -> None:
    value, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2]
    assert zero is not None
    name = str(node.name)
    steps = [ir.node("Div", [value, scale], name=f"{name}_scaled")]
    small = zero.dtype == FLOAT8
    if not small:
        steps.append(ir.node("Round", [steps[-1].outputs[0]], name=f"{name}_rounded"))
    most = FLOAT8_LARGEST if small else INT8_LARGEST
    least = -FLOAT8_LARGEST if small else -INT8_LARGEST - 1
    bounds = [_scalar(model, f"emulated_{bound:g}", bound) for bound in (least, most)]
    steps.append(ir.node("Clip", [steps[-1].outputs[0], *bounds], name=f"{name}_clipped"))
    if small:
        for to in (FLOAT8, FLOAT):
            source = steps[-1].outputs[0]
            steps.append(ir.node("Cast", [source], {"to": to.value}, name=f"{name}_{to.name}"))
    for step in steps[:-1]:
        step.outputs[0].name = str(step.name)
        step.outputs[0].type = ir.TensorType(FLOAT)
    if small:
        steps[-2].outputs[0].type = ir.TensorType(FLOAT8)
    for step in steps[:-1]:
        model.graph.insert_before(node, step)
    _take_over(model, node, steps[-1])


def _take_over(model: Model, old: Node, new: Node) -> None:
    """Put a node in another's place, with its name for the result, in float32."""
    before, after = old.outputs[0], new.outputs[0]
    model.graph.insert_before(old, new)
    after.shape = before.shape
    after.type = ir.TensorType(FLOAT)
    before.replace_all_uses_with(after)
    model.graph.remove(old, safe=True)
    after.name = before.name


def _scalar(model: Model, name: str, number: float) -> Any:
    there = model.graph.initializers.get(name)
    return there or add_initializer(model, name, np.array(number, np.float32))


def _sweep(model: Model) -> None:
    """Take out constants that nothing uses any more."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
