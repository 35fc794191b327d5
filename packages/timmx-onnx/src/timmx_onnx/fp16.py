"""Casting a finished float32 graph to float16 or bfloat16: public, for formats that derive.

`cast` changes a graph in place and leaves its inputs and outputs in float32. `emulate` gives the
graph that computes in float32 what the cast one means: every result of 16 bits rounded, to infinity
beyond the range. It is needed since onnxruntime has hardly a kernel for bfloat16 on the CPU, and
computes whole stretches of a float16 graph in float32, so that an overflow that every GPU would
meet shows nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ir import Graph, Model, Node, Value

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
LARGEST = 65504.0


@dataclass(frozen=True)
class Narrow:
    """A type of 16 bits."""

    dtype: Any  # of onnx_ir
    suffix: str  # of names in the graph
    largest: float

    @property
    def numpy(self) -> Any:
        """Its type of numbers in arrays."""
        return self.dtype.numpy()

    @property
    def onnx(self) -> str:
        """As in ONNX's definitions of operators."""
        return f"tensor({self.dtype.name.lower()})"


FLOAT16 = Narrow(HALF, "fp16", LARGEST)
BFLOAT16 = Narrow(ir.DataType.BFLOAT16, "bf16", 3.3895e38)
NARROW = frozenset({FLOAT16.dtype, BFLOAT16.dtype})
LEAST_WEIGHT = 1024  # numbers
# Such results are in float16 already where their inputs are: rounding them again changes nothing.
MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Split", "Concat"),
        *("Gather", "GatherElements", "GatherND", "Expand", "Tile", "Identity", "Relu", "MaxPool"),
        *("GlobalMaxPool", "Pad", "DepthToSpace", "SpaceToDepth", "Where", "Neg", "Abs"),
    }
)
# Inputs that runtimes want in float32 although ONNX allows float16: regions and scales of Resize.
STAY: dict[str, frozenset[int]] = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class Cast:
    """What became of a graph."""

    kept: tuple[str, ...]  # nodes that compute in float32, by name
    half: int  # how many nodes compute in 16 bits


def cast(
    model: Model,
    keep: Collection[str] = (),
    *,
    narrow_weights: bool = True,
    to: Narrow = FLOAT16,
) -> Cast:
    """Let a graph compute in 16 bits, in place.

    Nodes that ONNX does not define for that type, whose constants it cannot hold, or that have
    graphs of their own, stay in float32 like those that are to be kept.

    :param keep: names of nodes.
    :param narrow_weights: store the weights of such nodes in 16 bits all the same, where they fit;
        runtimes widen them once, when they load the file.
    :param to: `FLOAT16` or `BFLOAT16`.
    """
    graph = model.graph
    half = [node for node in graph if _can_be_half(node, model, to) and node.name not in keep]
    chosen = set(half)
    kept = tuple(str(n.name) for n in graph if n not in chosen and _is_float(n))
    _Caster(graph, chosen, narrow_weights, to).run()
    graph.sort()
    return Cast(kept, sum(_is_half(node, to) for node in half))


def emulate(model: Model) -> Model:
    """The graph that computes in float32 what a cast one means; the given one stays as it is."""
    model = model.clone()
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype in NARROW:
            _set_tensor(value, _numbers(value).astype(np.float32))
    for node in list(graph):
        _widen_constant(node)
        for value in node.outputs:
            if value.dtype not in NARROW:
                continue
            if node.op_type in MOVES:
                _set_type(value, FLOAT)
            else:
                _round(graph, node, value)
    graph.sort()
    return model


# ---------------------------------------------------------------- casting


class _Caster:
    def __init__(self, graph: Graph, half: set[Node], narrow_weights: bool, to: Narrow) -> None:
        self.to = to
        self.graph = graph
        self.half = half
        self.narrow_weights = narrow_weights

    def run(self) -> None:
        """Every float32 value, and whoever uses it, comes to agree on a type."""
        values = [v for node in self.graph for v in node.outputs]
        outer = [*self.graph.inputs, *self.graph.initializers.values()]
        for value in (*outer, *values):
            if value.dtype == FLOAT:
                self._settle(value)

    def _settle(self, value: Value) -> None:
        uses = list(value.uses())
        narrow = [(n, i) for n, i in uses if n in self.half and _takes_half(n, i)]
        producer = value.producer()
        if producer is not None and producer in self.half:
            wide = [use for use in uses if use not in narrow]
            self._narrow_result(producer, value, wide)
        elif value.is_initializer():
            wide = [use for use in uses if use not in narrow]
            if wide and self.narrow_weights and _is_weight(value, self.to):
                self._narrow_weight(value, narrow, shared=False)
                _replace(wide, self._cast_of(value, FLOAT))
            elif narrow:
                self._narrow_weight(value, narrow, shared=bool(wide))
        elif narrow:
            replacement = self._cast_of(value, self.to.dtype)
            _replace(narrow, replacement)

    def _narrow_result(self, node: Node, value: Value, wide: Sequence[tuple[Node, int]]) -> None:
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", self.to.dtype.value)
        _narrow_constant(node, self.to)
        _set_type(value, self.to.dtype)
        if value.is_graph_output():
            self._widen_output(value, wide)
        elif wide:
            _replace(wide, self._cast_of(value, FLOAT))

    def _widen_output(self, value: Value, wide: Sequence[tuple[Node, int]]) -> None:
        name = value.name
        value.name = f"{name}_{self.to.suffix}"
        result = self._cast_of(value, FLOAT)
        result.name = name
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = result
        _replace(wide, result)

    def _narrow_weight(
        self, value: Value, narrow: Sequence[tuple[Node, int]], shared: bool
    ) -> None:
        array = _numbers(value).astype(self.to.numpy)
        if not shared:
            _set_tensor(value, array)
            return
        name = f"{value.name}_{self.to.suffix}"
        copy = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self.to.dtype))
        copy.const_value = ir.Tensor(array, name=name)
        self.graph.register_initializer(copy)
        _replace(narrow, copy)

    def _cast_of(self, value: Value, to: Any) -> Value:
        """A new node after the value's producer, or at the start of the graph."""
        short = self.to.suffix if to == self.to.dtype else "fp32"
        node = ir.node("Cast", [value], {"to": to.value}, name=f"{value.name}_to_{short}")
        node.outputs[0].name = f"{value.name}_to_{short}"
        _set_type(node.outputs[0], to)
        node.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(self.graph[0], node)
        return node.outputs[0]


def _replace(uses: Iterable[tuple[Node, int]], value: Value) -> None:
    for node, index in uses:
        node.replace_input_with(index, value)


def _set_type(value: Value, to: Any) -> None:
    value.type = ir.TensorType(to)  # a new one: a model and its clone share theirs


def _set_tensor(value: Value, array: np.ndarray) -> None:
    value.const_value = ir.Tensor(array, name=value.name)
    _set_type(value, value.const_value.dtype)


def _numbers(value: Value) -> np.ndarray:
    assert value.const_value is not None
    array: np.ndarray = value.const_value.numpy()
    return array


# ---------------------------------------------------------------- what can be cast


def _is_float(node: Node) -> bool:
    return any(v is not None and v.dtype == FLOAT for v in (*node.inputs, *node.outputs))


def _is_half(node: Node, to: Narrow) -> bool:
    return any(v.dtype == to.dtype for v in node.outputs)


def _can_be_half(node: Node, model: Model, to: Narrow) -> bool:
    floats = [v for v in node.outputs if v.dtype == FLOAT]
    if not floats or any(True for _ in _subgraphs(node)):
        return False
    key = (node.domain, node.op_type, _version(node, model), to.onnx)
    inputs, outputs = _half_ports(*key, "inputs"), _half_ports(*key, "outputs")
    if not outputs or not all(_at(outputs, i) for i, v in enumerate(node.outputs) if v in floats):
        return False
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != FLOAT:
            continue
        if _takes_half(node, index) and (not _at(inputs, index) or not _fits(value, to)):
            return False
    return node.op_type != "Constant" or _constant_fits(node, to)


def _takes_half(node: Node, index: int) -> bool:
    return index not in STAY.get(node.op_type, ())


def _version(node: Node, model: Model) -> int:
    return int(model.graph.opset_imports.get(node.domain, 1))


@cache
def _half_ports(
    domain: str, operator: str, version: int, dtype: str, side: str
) -> tuple[bool, ...]:
    """For each formal input or output, whether ONNX allows a type; the last may be variadic."""
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return ()
    return tuple(dtype in port.types for port in getattr(schema, side))


def _at(ports: tuple[bool, ...], index: int) -> bool:
    return bool(ports) and ports[min(index, len(ports) - 1)]


def _fits(value: Value, to: Narrow) -> bool:
    """Whether a constant survives: nothing finite overflows, and no single number becomes 0."""
    if not value.is_initializer() or value.const_value is None:
        return True
    return _survives(_numbers(value), to)


def _is_weight(value: Value, to: Narrow) -> bool:
    """Large enough for its storage to matter."""
    return _numbers(value).size >= LEAST_WEIGHT and _fits(value, to)


def _survives(array: np.ndarray, to: Narrow) -> bool:
    finite = np.abs(array[np.isfinite(array)])
    if not finite.size:
        return True
    if float(finite.max()) > to.largest:
        return False
    narrow = finite.max().astype(to.numpy)
    return array.size > 1 or float(finite.max()) == 0 or float(narrow) != 0


def _constant_of(node: Node) -> Any:
    """The attribute in which a node holds numbers of its own."""
    if node.op_type in ("Constant", "ConstantOfShape"):
        for name in ("value", "value_float", "value_floats"):
            if name in node.attributes:
                return node.attributes[name]
    return None


def _constant_fits(node: Node, to: Narrow) -> bool:
    attribute = _constant_of(node)
    return attribute is not None and _survives(_attribute_numbers(attribute), to)


def _attribute_numbers(attribute: Any) -> np.ndarray:
    if attribute.type == ir.AttributeType.TENSOR:
        array: np.ndarray = attribute.value.numpy()
        return array
    return np.asarray(attribute.value, np.float32)


def _narrow_constant(node: Node, to: Narrow) -> None:
    attribute = _constant_of(node)
    if attribute is None and node.op_type == "ConstantOfShape":
        _set_constant(node, None, np.zeros(1, to.numpy))  # by default float32
    elif attribute is not None:
        _set_constant(node, attribute, _attribute_numbers(attribute).astype(to.numpy))


def _widen_constant(node: Node) -> None:
    attribute = _constant_of(node)
    if attribute is not None and any(v.dtype in NARROW for v in node.outputs):
        _set_constant(node, attribute, _attribute_numbers(attribute).astype(np.float32))


def _set_constant(node: Node, attribute: Any, array: np.ndarray) -> None:
    if attribute is not None:
        del node.attributes[attribute.name]
    node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))


def _subgraphs(node: Node) -> Iterator[Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.value


# ---------------------------------------------------------------- emulation


def _round(graph: Graph, node: Node, value: Value) -> None:
    """Let all users see a result of float32 that was rounded to 16 bits and back."""
    uses = list(value.uses())
    shape, small = value.shape, value.dtype
    if node.op_type == "Cast":
        narrow = value  # "to" is of 16 bits there
    else:
        _set_type(value, FLOAT)
        narrow = _after(graph, node, value, small, shape)
        node = narrow.producer() or node
    wide = _after(graph, node, narrow, FLOAT, shape)
    _replace(uses, wide)


def _after(graph: Graph, node: Node, value: Value, to: Any, shape: Any) -> Value:
    new = ir.node("Cast", [value], {"to": to.value}, name=f"{value.name}_as_{to.name}")
    new.outputs[0].name = f"{value.name}_as_{to.name}"
    _set_type(new.outputs[0], to)
    new.outputs[0].shape = shape
    graph.insert_after(node, new)
    return new.outputs[0]
