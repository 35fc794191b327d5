"""Which nodes of a graph must stay in float32, so that the rest may compute in float16.

First those whose results would not fit, whatever the runtime; then, where the file misses its
floor, whole kinds of operators in widening circles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from timmx_core.toolkit.precision_search import settle
from timmx_onnx import fp16

if TYPE_CHECKING:
    from onnx_ir import Model, Node

# Beyond what the probes reach, images of the user's own may go four times as far.
HEADROOM = 4.0
_SUMS = frozenset(
    {
        *("BatchNormalization", "CumSum", "Div", "Einsum", "Exp", "GroupNormalization"),
        *("InstanceNormalization", "LayerNormalization", "Log", "LpNormalization", "Pow"),
        *("RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
        *("ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Sqrt"),
        *("AveragePool", "GlobalAveragePool"),
    }
)
_PRODUCTS = frozenset({"Attention", "MatMul"})
_ELEMENTS = frozenset(
    {
        *("Add", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Mul", "Sub"),
        *("Sigmoid", "Softplus", "Sum", "Swish", "Tanh"),
    }
)
CIRCLES: tuple[frozenset[str] | None, ...] = (
    frozenset(),
    _SUMS,
    _SUMS | _PRODUCTS,
    _SUMS | _PRODUCTS | _ELEMENTS,
    None,
)
"""Kinds of operators that are kept in float32, tried in turn; None: all. A last one keeps their
weights as well."""


@dataclass(frozen=True)
class Settled:
    """A cast graph, its emulation, and which nodes were kept."""

    model: Model
    emulated: Model
    kept: tuple[str, ...]
    snr_db: float


def settle_cast(
    model: Model,
    large: Iterable[str],
    rate: Callable[[Model], float],
    floor_db: float,
    to: fp16.Narrow = fp16.FLOAT16,
) -> Settled:
    """The graph cast to 16 bits as far as the floor allows; the given one stays as it is.

    :param large: names of nodes that must be kept in any case.
    :param rate: the signal-to-noise ratio of a graph that computes in float32.
    :param to: the type of 16 bits.
    """
    always = frozenset(large)

    def attempt(circle: _Circle) -> Settled:
        half = model.clone()
        done = fp16.cast(half, circle.keep, narrow_weights=circle.narrow_weights, to=to)
        return Settled(half, fp16.emulate(half), done.kept, 0.0)

    best = settle(_circles(model, always), attempt, lambda s: rate(s.emulated), floor_db)
    made = best.model
    return Settled(made.model, made.emulated, made.kept, best.snr_db)


@dataclass(frozen=True)
class _Circle:
    keep: frozenset[str]  # names of nodes
    narrow_weights: bool = True


def _circles(model: Model, always: frozenset[str]) -> Iterator[_Circle]:
    """Each keeps more than the one before; the last is the float32 graph."""
    before: frozenset[str] | None = None
    keep = always
    for kinds in CIRCLES:
        nodes = (n for n in model.graph if kinds is None or n.op_type in kinds)
        keep = always | {str(n.name) for n in nodes}
        if keep != before:
            yield _Circle(keep)
        before = keep
    yield _Circle(keep, narrow_weights=False)


OF_SHAPES = ("Shape", "Size")


def describe(model: Model, kept: Iterable[str]) -> str:
    """As in "12 Softmax, 1 ReduceMean", without those that give integers of whatever they take."""
    names = set(kept)
    counts = Counter(
        n.op_type for n in model.graph if n.name in names and n.op_type not in OF_SHAPES
    )
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


# ---------------------------------------------------------------- how large results become


def watched(model: Model) -> tuple[Model, dict[str, str]]:
    """A copy that also gives the largest absolute value of every float32 result.

    :return: the copy, and by the name of each further output the node that it is about.
    """
    model = model.clone()
    graph = model.graph
    about: dict[str, str] = {}
    for node in list(graph):
        if node.op_type in fp16.MOVES:
            continue
        for index, value in enumerate(node.outputs):
            if value.dtype == fp16.FLOAT and value.name:
                name = f"timmx_largest_{len(about)}"
                _append_largest(model, value, name)
                about[name] = f"{node.name}:{index}"
    return model, about


def _append_largest(model: Model, value: Any, name: str) -> None:
    size = ir.node("Abs", [value], name=f"{name}_abs")
    largest = ir.node("ReduceMax", [size.outputs[0]], {"keepdims": 0}, name=name)
    size.outputs[0].name = f"{name}_abs"
    result = largest.outputs[0]
    result.name = name
    result.type = ir.TensorType(fp16.FLOAT)
    result.shape = ir.Shape([])
    model.graph.extend([size, largest])
    model.graph.outputs.append(result)


def too_large(model: Model, largest: Mapping[str, float]) -> frozenset[str]:
    """The nodes that make or take results beyond float16.

    :param largest: by "node:output", over all probes.
    """
    limit = fp16.LARGEST / HEADROOM
    names: set[str] = set()
    for node in model.graph:
        for index, value in enumerate(node.outputs):
            if not largest.get(f"{node.name}:{index}", 0.0) <= limit:  # NaN is beyond it, too
                names.add(str(node.name))
                names |= {str(user.name) for user in _takers(value)}
    return frozenset(names)


def _takers(value: Any) -> Iterator[Node]:
    """Who computes with a value, through whatever only moves it."""
    for node, _ in value.uses():
        yield node
        if node.op_type in fp16.MOVES:
            for output in node.outputs:
                yield from _takers(output)


def largest_results(
    path: Path, about: Mapping[str, str], batches: Iterable[Any]
) -> dict[str, float]:
    """Run a watched graph.

    :param batches: inputs by name.
    :return: by "node:output", over all batches.
    """
    from timmx_onnx.providers import CPU
    from timmx_onnx.runner import OnnxRunner

    found = dict.fromkeys(about.values(), 0.0)
    with OnnxRunner(path, (CPU,)) as runner:
        for inputs in batches:
            outputs = runner.run(inputs)
            for name, key in about.items():
                found[key] = float(np.maximum(found[key], outputs[name]))
    return found
