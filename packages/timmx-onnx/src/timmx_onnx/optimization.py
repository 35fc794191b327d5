"""What makes the graph faster in onnxruntime beyond what onnxruntime does by itself.

Little does: docs/formats/onnx.md has what was tried. A scale for each channel behind a linear layer
(LayerScale, a folded norm) is left by onnxruntime as a pass over the whole result; here it goes
into weight and bias. And a Pad becomes part of the convolution or pooling behind it: onnxruntime
does that, too, when it loads a file; but its quantizer sees the file, and -inf is no range.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from timmx_onnx.constants import add_initializer, array_of

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value

# With what a layer itself pads.
NEUTRAL = {"Conv": (0.0,), "MaxPool": (-math.inf, float(np.finfo(np.float32).min))}


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


def pool_means(model: Model) -> int:
    """Make the mean over H and W a GlobalAveragePool, in place.

    For that onnxruntime has a kernel in integers. In float its sum is less exact: 10 dB less remain
    of mobilenetv3_small_100, for a hundredth of the time. So this is for int8 alone.

    :return: how many.
    """
    found = [node for node in model.graph if _is_spatial_mean(node)]
    for node in found:
        pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name)
        old, new = node.outputs[0], pool.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        model.graph.insert_before(node, pool)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    return len(found)


def _is_spatial_mean(node: Node) -> bool:
    if node.op_type != "ReduceMean" or node.domain or len(node.inputs) != 2:
        return False
    image, axes = node.inputs
    if image is None or axes is None or not _is_stored(axes):
        return False
    keep = node.attributes.get("keepdims")
    whole = image.shape is not None and len(image.shape) == 4 and image.dtype == ir.DataType.FLOAT
    return (
        whole
        and (keep is None or keep.as_int() == 1)
        and {int(a) % 4 for a in array_of(axes)} == {2, 3}
    )


def fold_pads(model: Model) -> int:
    """Put a constant Pad into the Conv or MaxPool that alone uses it, in place.

    :return: how many.
    """
    folded = 0
    for node in list(model.graph):
        if node.op_type == "Pad" and not node.domain:
            folded += _fold_pad(model, node)
    return folded


def _fold_pad(model: Model, pad: Node) -> bool:
    result, source = pad.outputs[0], pad.inputs[0]
    users = list(result.uses())
    if len(users) != 1 or result.is_graph_output() or source is None:
        return False
    layer = users[0].node
    around = _spatial_pads(pad)
    if layer.op_type not in ("Conv", "MaxPool") or users[0].idx != 0 or around is None:
        return False
    if (
        _text(layer, "auto_pad", "NOTSET") != "NOTSET"
        or _pad_value(pad) not in NEUTRAL[layer.op_type]
    ):
        return False
    own = layer.attributes.get("pads")
    pads = [a + b for a, b in zip(own.as_ints() if own else [0] * len(around), around, strict=True)]
    if layer.op_type == "MaxPool" and not _fits_window(layer, pads):
        return False
    layer.attributes["pads"] = ir.AttrInt64s("pads", pads)
    layer.replace_input_with(0, source)
    model.graph.remove(pad, safe=True)
    return True


def _spatial_pads(pad: Node) -> list[int] | None:
    """As a layer has them: begins, then ends, of H and W. None: of other axes, or not constant."""
    if _text(pad, "mode", "constant") != "constant" or len(pad.inputs) > 3:
        return None
    amounts = pad.inputs[1]
    if amounts is None or not _is_stored(amounts):
        return None
    values = [int(v) for v in array_of(amounts)]
    half = len(values) // 2
    if half < 3 or any(values[:2]) or any(values[half : half + 2]) or min(values) < 0:
        return None
    return values[2:half] + values[half + 2 :]


def _pad_value(pad: Node) -> float:
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None:
        return 0.0
    return float(array_of(value).reshape(-1)[0]) if _is_stored(value) else math.nan


def _fits_window(layer: Node, pads: list[int]) -> bool:
    """Runtimes refuse a padding as wide as the window."""
    window = layer.attributes["kernel_shape"].as_ints()
    ceil = layer.attributes.get("ceil_mode")
    return all(p < k for p, k in zip(pads, [*window, *window], strict=True)) and not (
        ceil and ceil.as_int()
    )


def _text(node: Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


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
    factor = array_of(scale)
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
    return _is_stored(value) and value.dtype == ir.DataType.FLOAT


def _is_stored(value: Value) -> bool:
    return value.is_initializer() and value.const_value is not None


def _only_producer(value: Value, kind: str) -> Node | None:
    """Who makes a value that nobody else uses."""
    node = value.producer()
    if node is None or node.op_type != kind or value.is_graph_output():
        return None
    return node if len(value.uses()) == 1 else None


def _fits(factor: np.ndarray, weight: Value, bias: Value | None) -> bool:
    """Whether the factor varies along the layer's outputs alone."""
    columns = array_of(weight).shape
    if len(columns) != 2 or factor.shape[:-1] != (1,) * (factor.ndim - 1):
        return False
    wide = factor.size in (1, columns[1])
    return wide and (bias is None or array_of(bias).shape in ((columns[1],), (1, columns[1])))


def _scaled(model: Model, value: Value, factor: np.ndarray) -> Value:
    array = (array_of(value) * factor.reshape(-1)).astype(np.float32)
    name = f"{value.name}_scaled"
    while name in model.graph.initializers:
        name += "_"
    return add_initializer(model, name, array)


def _take_out(model: Model, mul: Node, result: Value) -> None:
    """Let whoever used the product use what was multiplied."""
    output = mul.outputs[0]
    if output.is_graph_output():
        result.name, output.name = output.name, f"{output.name}_before"
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(mul, safe=True)
