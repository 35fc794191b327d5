"""Pixels of uint8: TensorRT does nothing with them but a cast, so that has to come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value

MOVES = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity"})


def cast_first(model: Model) -> bool:
    """Cast an input of uint8 before it is moved, not after, in place.

    :return: whether there was anything to do.
    """
    done = False
    for port in model.graph.inputs:
        if port.dtype == ir.DataType.UINT8:
            moves, cast = _path(port)
            if moves and cast is not None:
                _exchange(model, port, moves, cast)
                done = True
    return done


def _path(port: Value) -> tuple[list[Node], Node | None]:
    """The moves from an input to its cast; no cast where it goes several ways."""
    moves: list[Node] = []
    value = port
    while len(users := list(value.uses())) == 1:
        node = users[0][0]
        if node.op_type == "Cast":
            return moves, node
        if node.op_type not in MOVES:
            break
        moves.append(node)
        value = node.outputs[0]
    return moves, None


def _exchange(model: Model, port: Value, moves: list[Node], cast: Node) -> None:
    wide = cast.outputs[0].type
    first = ir.node("Cast", [port], {"to": cast.attributes["to"].value}, name=f"{port.name}_wide")
    first.outputs[0].name = f"{port.name}_wide"
    first.outputs[0].type, first.outputs[0].shape = wide, port.shape
    model.graph.insert_before(moves[0], first)
    moves[0].replace_input_with(0, first.outputs[0])
    for node in moves:
        node.outputs[0].type = wide
    cast.outputs[0].replace_all_uses_with(moves[-1].outputs[0])
    model.graph.remove(cast, safe=True)
