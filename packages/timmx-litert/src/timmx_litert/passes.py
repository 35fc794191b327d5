"""What makes the graph smaller without changing its results: copies that nobody needs go.

Every pass looks for one pattern, changes it in place, and gives how often it found it. They know
operators and shapes, and no architecture. They are for graphs of static shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from timmx_litert.graph import Graph

NOT_NEGATIVE = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
ARITHMETIC = ("ADD", "MUL", "RSQRT", "SUB")
MOVING = ("RESHAPE", "TRANSPOSE")
MOST_SIMULATED = 1 << 24  # numbers whose places are followed through reshapes and transposes


def tidy(graph: Graph) -> dict[str, int]:
    """All passes, in place.

    :return: how often each of them found something.
    """
    found = {name.__name__: name(graph) for name in PASSES}
    return {name: count for name, count in found.items() if count}


# ---------------------------------------------------------------- padding


def pad_with_zero(graph: Graph) -> int:
    """Pad what is never negative with zeros before a maximum, instead of the least number.

    XNNPACK knows no other padding, and a graph that it does not take whole is cut in two.
    """
    producers, users = graph.producers(), graph.users()
    count = 0
    for operator in graph.operators:
        if graph.kind(operator) != "PADV2":
            continue
        before = producers.get(int(operator.inputs[0]))
        value = graph.array(int(operator.inputs[2]))
        after = {graph.kind(user) for user in users.get(int(operator.outputs[0]), [])}
        lowest = value is not None and value.size == 1 and value.item() <= np.finfo(np.float32).min
        if lowest and after == {"MAX_POOL_2D"} and _is_not_negative(graph, before):
            graph.turn_into(operator, "PAD", operator.inputs[:2])
            count += 1
    return count


def _is_not_negative(graph: Graph, operator: Any) -> bool:
    if operator is None:
        return False
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", None)
    return fused in NOT_NEGATIVE or graph.kind(operator) in ("RELU", "RELU6")


# ---------------------------------------------------------------- means


def keep_mean_dimensions(graph: Graph) -> int:
    """Means, and statistics of them, keep all dimensions, and need no reshape to have them back.

    litert-torch takes layer norm apart so: mean and variance as vectors, some arithmetic on them,
    and a reshape before each is used with the tensor that it came from.
    """
    count = 0
    for operator in graph.operators:
        if graph.kind(operator) != "MEAN" or operator.builtinOptions.keepDims:
            continue
        wide = _kept(graph, operator)
        result = int(operator.outputs[0])
        if wide is None or len(graph.shape(result)) != 1 or sum(n > 1 for n in wide) > 1:
            continue  # a vector along one dimension broadcasts as before with the others in place
        region = _statistics(graph, result, wide)
        if region is None:
            continue
        producers = graph.producers()
        for tensor in region:
            graph.set_shape(tensor, wide)
            if graph.kind(producers[tensor]) == "MEAN":
                producers[tensor].builtinOptions.keepDims = True
                count += 1
    return count


def _kept(graph: Graph, mean: Any) -> tuple[int, ...] | None:
    """The shape of a mean's result with all of its dimensions."""
    axes, shape = graph.array(int(mean.inputs[1])), graph.shape(int(mean.inputs[0]))
    if axes is None:
        return None
    return tuple(1 if i in axes % len(shape) else n for i, n in enumerate(shape))


def _statistics(graph: Graph, start: int, wide: tuple[int, ...]) -> set[int] | None:
    """All vectors that belong to one by arithmetic; None where one of them is used as a vector.

    They come from means of the same dimensions, and where they leave for other tensors they are
    reshaped to `wide`: those reshapes change nothing once the vectors have that shape.
    """
    producers, users = graph.producers(), graph.users()
    narrow, ends = graph.shape(start), {int(t) for t in graph.main.outputs}
    region: set[int] = set()
    waiting = [start]
    while waiting:
        tensor = waiting.pop()
        if tensor in region:
            continue
        made = producers.get(tensor)
        if made is None or tensor in ends:
            return None
        around = [user for user in users.get(tensor, []) if not _reshapes(graph, user, wide)]
        if graph.kind(made) == "MEAN":
            if _kept(graph, made) != wide:
                return None
        else:
            around.append(made)
        for operator in around:
            if graph.kind(operator) not in ARITHMETIC:
                return None
            for other in (*operator.inputs, *operator.outputs):
                if graph.array(int(other)) is None:
                    if graph.shape(int(other)) != narrow:
                        return None
                    waiting.append(int(other))
                elif graph.array(int(other)).size != 1:  # type: ignore[union-attr]
                    return None
        region.add(tensor)
    return region


def _reshapes(graph: Graph, operator: Any, shape: tuple[int, ...]) -> bool:
    return graph.kind(operator) == "RESHAPE" and graph.shape(int(operator.outputs[0])) == shape


# ---------------------------------------------------------------- matrix products


def unfold_products(graph: Graph) -> int:
    """Multiply batches of matrices as they are, instead of folding their dimensions into one."""
    count = 0
    for product in list(graph.operators):
        if graph.kind(product) != "BATCH_MATMUL":
            continue
        result = int(product.outputs[0])
        after = graph.users().get(result, [])
        if len(after) != 1 or graph.kind(after[0]) != "RESHAPE":
            continue
        folded, wide = graph.shape(result), graph.shape(int(after[0].outputs[0]))
        if len(folded) != 3 or len(wide) != 4 or wide[2:] != folded[1:]:
            continue
        inputs = [int(t) for t in product.inputs]
        if any(graph.array(t) is not None or len(graph.shape(t)) != 3 for t in inputs):
            continue
        if any(graph.shape(t)[0] != math.prod(wide[:2]) for t in inputs):
            continue
        at = graph.operators.index(product)
        unfolded = []
        for tensor in inputs:
            shape = (*wide[:2], *graph.shape(tensor)[1:])
            unfolded.append(graph.add_reshape(tensor, shape, at))
        product.inputs = np.array(unfolded, np.int32)
        graph.set_shape(result, wide)
        count += 1
    if count:
        join_reshapes(graph)
        drop_reshapes(graph)
    return count


def drop_key_transposes(graph: Graph) -> int:
    """Let a product read its second matrix by columns, instead of transposing it before."""
    producers, users = graph.producers(), graph.users()
    count = 0
    for product in graph.operators:
        if graph.kind(product) != "BATCH_MATMUL":
            continue
        before = producers.get(int(product.inputs[1]))
        if before is None or graph.kind(before) != "TRANSPOSE":
            continue
        order = graph.array(int(before.inputs[1]))
        rank = len(graph.shape(int(before.outputs[0])))
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        if order is None or order.tolist() != swapped or len(users[int(product.inputs[1])]) != 1:
            continue
        if product.builtinOptions.adjY:
            continue
        product.builtinOptions.adjY = True
        product.inputs = np.array([product.inputs[0], before.inputs[0]], np.int32)
        count += 1
    graph.drop_unread()
    return count


# ---------------------------------------------------------------- reshapes and transposes


def drop_moves(graph: Graph) -> int:
    """Chains of reshapes and transposes that leave every number where it was become one reshape."""
    producers, users = graph.producers(), graph.users()
    count = 0
    for last in list(graph.operators):
        if graph.kind(last) != "TRANSPOSE":
            continue
        chain = [last]
        while True:
            source = int(chain[-1].inputs[0])
            before = producers.get(source)
            if before is None or graph.kind(before) not in MOVING or len(users[source]) != 1:
                break
            chain.append(before)
        for length in range(len(chain), 1, -1):
            part = chain[:length]
            if graph.kind(part[-1]) == "TRANSPOSE" and _stays(graph, part[::-1]):
                source = int(part[-1].inputs[0])
                shape = graph.shape(int(last.outputs[0]))
                graph.turn_into_reshape(last, source, shape)
                count += 1
                break
    graph.drop_unread()
    return count


def _stays(graph: Graph, chain: Sequence[Any]) -> bool:
    """Whether all numbers come out of the chain in the order in which they went in."""
    shape = graph.shape(int(chain[0].inputs[0]))
    size = math.prod(shape)
    if size > MOST_SIMULATED:
        return False
    places = np.arange(size, dtype=np.int32).reshape(shape)
    for operator in chain:
        if graph.kind(operator) == "RESHAPE":
            places = places.reshape(graph.shape(int(operator.outputs[0])))
        else:
            order = graph.array(int(operator.inputs[1]))
            if order is None:
                return False
            places = places.transpose(order)
    return bool((places.ravel() == np.arange(size, dtype=np.int32)).all())


def join_reshapes(graph: Graph) -> int:
    """Let a reshape of a reshape start from what the first one started from."""
    producers = graph.producers()
    count = 0
    for operator in graph.operators:
        if graph.kind(operator) != "RESHAPE":
            continue
        before = producers.get(int(operator.inputs[0]))
        while before is not None and graph.kind(before) == "RESHAPE":
            operator.inputs = operator.inputs.copy()
            operator.inputs[0] = before.inputs[0]
            before = producers.get(int(operator.inputs[0]))
            count += 1
    graph.drop_unread()
    return count


def drop_reshapes(graph: Graph) -> int:
    """Take out reshapes that change nothing."""
    ends = {int(t) for t in graph.main.outputs}
    count = 0
    for operator in list(graph.operators):
        if graph.kind(operator) != "RESHAPE":
            continue
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        if result in ends or graph.shape(source) != graph.shape(result):
            continue
        graph.operators.remove(operator)
        graph.redirect(result, source)
        count += 1
    return count


PASSES: tuple[Callable[[Graph], int], ...] = (
    pad_with_zero,
    keep_mean_dimensions,
    unfold_products,
    drop_key_transposes,
    drop_moves,
    join_reshapes,
    drop_reshapes,
)
