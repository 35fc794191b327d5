"""A file that takes any batch size, made of two that take one each.

litert-torch converts static shapes only. So the model is converted for two images and for three,
and whatever differs between the two graphs is the batch. LiteRT infers the shapes of nearly all
results from those of the inputs; what states a shape by itself (RESHAPE, SLICE) is told to infer
that dimension, and a constant that was repeated for every image is repeated by the graph instead.
What is left bakes the batch in, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from timmx_core.errors import ExportError
from timmx_litert.graph import Graph

if TYPE_CHECKING:
    import torch

TWO, THREE = 2, 3
OPEN_END = 2**31 - 1  # of a slice: runtimes stop where the tensor ends
# Where an operator takes a shape, and what stands for "as many as there are".
STATED = {
    ("RESHAPE", 1): -1,
    ("SLICE", 2): -1,
    ("STRIDED_SLICE", 2): OPEN_END,
}
BROADCASTING = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SUB"})


def repeated(images: torch.Tensor, count: int) -> torch.Tensor:
    """Example images, as many as are wanted."""
    import torch

    return images[torch.arange(count) % len(images)]


def join(two: Graph, three: Graph, default: int) -> Graph:
    """One graph for any batch size, out of those for two and three images.

    :param default: the batch size that the file has until it is resized.
    :raises ExportError: the model bakes its batch size in; names the operator.
    """
    return _Join(two, three, default).run()


class _Join:
    def __init__(self, two: Graph, three: Graph, default: int) -> None:
        self.two = two
        self.three = three
        self.default = default

    def run(self) -> Graph:
        self._check_same()
        for operator in [o for o in self.two.operators if self.two.kind(o) == "BROADCAST_TO"]:
            self._broadcast(operator)
        users = self.two.users()
        before = range(len(self.three.tensors))  # without those that are added here
        constant = [tensor for tensor in before if self.two.array(tensor) is not None]
        for tensor in constant:
            if tensor in users:
                self._constant(tensor, users[tensor])
        for tensor in before:
            if tensor not in constant:
                self._computed(tensor)
        return self.two

    def _check_same(self) -> None:
        """The two graphs have the same operators between the same tensors."""
        if len(self.two.tensors) != len(self.three.tensors):
            raise _baked("its graph depends on it")
        for a, b in zip(self.two.operators, self.three.operators, strict=False):
            if (
                self.two.kind(a) != self.three.kind(b)
                or list(a.inputs) != list(b.inputs)
                or list(a.outputs) != list(b.outputs)
            ):
                raise _baked("its graph depends on it")
        if len(self.two.operators) != len(self.three.operators):
            raise _baked("its graph depends on it")

    # ---- results

    def _computed(self, tensor: int) -> None:
        """The shape for the default batch, with what varies marked."""
        pairs = list(zip(self.two.shape(tensor), self.three.shape(tensor), strict=True))
        if all(a == b for a, b in pairs):
            return
        if any(a != b and a != TWO * (b - a) for a, b in pairs):
            raise _baked(f"{self._name(tensor)} does not grow with it")
        found = self.two.tensors[tensor]
        found.shape = np.array(
            [a if a == b else (b - a) * self.default for a, b in pairs], np.int32
        )
        found.shapeSignature = np.array([a if a == b else -1 for a, b in pairs], np.int32)

    # ---- constants

    def _constant(self, tensor: int, users: Sequence[Any]) -> None:
        a, b = self.two.array(tensor), self.three.array(tensor)
        assert a is not None
        if b is None or a.ndim != b.ndim:
            raise _baked(f"{self._name(tensor)} depends on it")
        if a.shape == b.shape:
            if not np.array_equal(a, b):
                self._open(tensor, a, b, users)
        else:
            self._once(tensor, a, b, users)

    def _broadcast(self, operator: Any) -> None:
        """A constant that an operator repeats for every image (a class token)."""
        source, shape = (int(t) for t in operator.inputs)
        row, a, b = self.two.array(source), self.two.array(shape), self.three.array(shape)
        if row is None or a is None or b is None or np.array_equal(a, b):
            return
        row = row.reshape((1,) * (len(a) - row.ndim) + row.shape)
        if list(a[1:]) != list(row.shape[1:]) or (row.shape[0], a[0], b[0]) != (1, TWO, THREE):
            raise _baked(f"BROADCAST_TO repeats {self._name(source)} for it")
        (output,) = (int(t) for t in operator.outputs)
        self._replace(output, row, self.two.users().get(output, []))
        self.two.operators.remove(operator)

    def _open(self, tensor: int, a: np.ndarray, b: np.ndarray, users: Sequence[Any]) -> None:
        """A shape that has the batch in one of its places: let the runtime infer that."""
        (places,) = np.nonzero(a != b) if a.ndim == 1 else ((),)
        for user in users:
            kind, where = self.two.kind(user), list(user.inputs).index(tensor)
            if (kind, where) not in STATED or len(places) != 1:
                raise _baked(f"{kind} has a constant of it, {self._name(tensor)}")
            value = a.copy()
            value[places] = STATED[kind, where]
            user.inputs = user.inputs.copy()
            user.inputs[where] = self.two.add_constant(value, f"{self._name(tensor)};any")
            if kind == "RESHAPE" and user.builtinOptions is not None:
                user.builtinOptions.newShape = value

    def _once(self, tensor: int, a: np.ndarray, b: np.ndarray, users: Sequence[Any]) -> None:
        """A constant that was repeated for every image: one row of it is enough."""
        axes = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        row = a.take([0], axes[0])
        same = len(axes) == 1 and (a.shape[axes[0]], b.shape[axes[0]]) == (TWO, THREE)
        if not same or not ((a == row).all() and (b == row).all()):
            raise _baked(f"{self._name(tensor)} depends on it")
        if axes != [0]:
            raise _baked(f"{self._name(tensor)} depends on it")
        self._replace(tensor, row, users)

    def _replace(self, tensor: int, row: np.ndarray, users: Sequence[Any]) -> None:
        """Let one row stand for what had one for every image."""
        single = self.two.add_constant(row, f"{self._name(tensor)};one")
        for user in users:
            kind, where = self.two.kind(user), list(user.inputs).index(tensor)
            replacement = single
            if kind == "CONCATENATION":
                replacement = self._repeat(single, row, user, tensor)
            elif kind not in BROADCASTING:
                raise _baked(f"{kind} takes a constant for every image, {self._name(tensor)}")
            user.inputs = user.inputs.copy()
            user.inputs[where] = replacement

    def _repeat(self, single: int, row: np.ndarray, concat: Any, tensor: int) -> int:
        """One row for every image of what it is joined with: `0 * image + row`.

        A BROADCAST_TO would have to compute its shape as it runs, and then no delegate takes the
        graph.
        """
        axis = concat.builtinOptions.axis % row.ndim
        others = (int(t) for t in concat.inputs if int(t) != tensor)
        like = next((t for t in others if self.two.array(t) is None), None)
        shape = self.two.shape(like) if like is not None else ()
        if like is None or axis == 0 or len(shape) != row.ndim:
            raise _baked(f"CONCATENATION takes a constant for every image, {self._name(tensor)}")
        size = [-1 if i != axis else 1 for i in range(row.ndim)]
        thin = tuple(1 if i == axis else n for i, n in enumerate(shape))
        grown = tuple(TWO if i == 0 else n for i, n in enumerate(row.shape))
        name, type_ = self._name(tensor), self.two.tensors[tensor].type
        parts = [self._fresh(shape, type_, name) for shape in (thin, thin, grown)]
        zero = self.two.add_constant(np.zeros((), row.dtype), f"{name};zero")
        begin = self.two.add_constant(np.zeros(row.ndim, np.int32), f"{name};begin")
        sizes = self.two.add_constant(np.array(size, np.int32), f"{name};size")
        before = self.two.operators.index(concat)
        options = schema.BuiltinOptions
        for kind, inputs, output, chosen in (
            (
                "SLICE",
                [like, begin, sizes],
                parts[0],
                (options.SliceOptions, schema.SliceOptionsT()),
            ),
            ("MUL", [parts[0], zero], parts[1], (options.MulOptions, schema.MulOptionsT())),
            ("ADD", [parts[1], single], parts[2], (options.AddOptions, schema.AddOptionsT())),
        ):
            self.two.add_operator(kind, inputs, [output], at=before, options=chosen)
            before += 1
        return parts[2]

    def _fresh(self, shape: tuple[int, ...], type_: int, name: str) -> int:
        """A new result that grows with the batch in its first dimension."""
        index = self.two.add_tensor((shape[0] // TWO * self.default, *shape[1:]), type_, f"{name};")
        self.two.tensors[index].shapeSignature = np.array((-1, *shape[1:]), np.int32)
        return index

    def _name(self, tensor: int) -> str:
        name: str = self.two.tensors[tensor].name.decode("utf-8", "replace")
        return name.rpartition(";;")[2][-120:]


def _baked(why: str) -> ExportError:
    return ExportError(
        f"the LiteRT graph of this model is made for one batch size: {why}",
        "export one batch size with --batch-size N",
    )
