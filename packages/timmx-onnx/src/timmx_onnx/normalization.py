"""Group norms in operators that onnxruntime computes well.

It has no kernel for GroupNormalization, and expands it: the variance is then the mean square less
the squared mean, which loses half of the digits where an image is flat, in a dozen passes over the
data. InstanceNormalization has a kernel that does neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from timmx_onnx.constants import add_initializer, array_of

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value

EPSILON = 1e-5  # GroupNormalization's own, where none is stated


def expand_group_norms(model: Model) -> int:
    """Compute each GroupNormalization as an InstanceNormalization of its groups, in place.

    :return: how many.
    """
    found = [node for node in model.graph if _is_plain(node)]
    for node in found:
        _expand(model, node)
    return len(found)


def _is_plain(node: Node) -> bool:
    """Of float32, with parameters for each channel and a known size but for the batch."""
    if node.op_type != "GroupNormalization" or node.domain:
        return False
    image, *parameters = node.inputs
    if image is None or image.shape is None or image.dtype != ir.DataType.FLOAT:
        return False
    channels = image.shape[1]
    return all(isinstance(size, int) for size in image.shape[1:]) and all(
        p is not None and p.is_initializer() and p.shape is not None and p.shape == (channels,)
        for p in parameters
    )


def _expand(model: Model, node: Node) -> None:
    image, gain, offset = node.inputs
    assert image is not None
    assert image.shape is not None
    assert gain is not None
    assert offset is not None
    result = node.outputs[0]
    groups = node.attributes["num_groups"].as_int()
    epsilon = node.attributes.get("epsilon")
    sizes = [int(size) for size in image.shape[1:]]  # type: ignore[arg-type]
    wide = (sizes[0], *(1 for _ in sizes[1:]))

    def constant(label: str, array: np.ndarray) -> Value:
        return add_initializer(model, f"{result.name}_{label}", array)

    # 0 is the size that the input has: that of the batch.
    apart = ir.node("Reshape", [image, constant("groups", np.array([0, groups, -1]))])
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    norm = ir.node(
        "InstanceNormalization",
        [apart.outputs[0], constant("ones", ones), constant("zeros", zeros)],
        {"epsilon": EPSILON if epsilon is None else epsilon.as_float()},
    )
    whole = ir.node("Reshape", [norm.outputs[0], constant("shape", np.array([0, *sizes]))])
    scaled = ir.node("Mul", [whole.outputs[0], constant("scale", array_of(gain).reshape(wide))])
    moved = ir.node("Add", [scaled.outputs[0], constant("shift", array_of(offset).reshape(wide))])
    nodes = {"apart": apart, "norm": norm, "whole": whole, "scaled": scaled, "moved": moved}
    for label, step in nodes.items():
        step.name = step.outputs[0].name = f"{result.name}_{label}"
        step.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    for step in (whole, scaled):
        step.outputs[0].shape = image.shape
    last = moved.outputs[0]
    last.name, last.shape, last.type = result.name, result.shape, result.type
    model.graph.insert_before(node, tuple(nodes.values()))
    result.replace_all_uses_with(last, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    for parameter in (gain, offset):
        if not parameter.uses():
            model.graph.initializers.pop(str(parameter.name), None)
