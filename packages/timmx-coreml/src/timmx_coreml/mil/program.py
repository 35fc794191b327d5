"""A saved MIL program as plain objects, decoded from `Model.mlProgram`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from timmx_coreml.mil.arrays import numbers
from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation
from timmx_coreml.mil.types import NAMES, DictType, ListType, TensorType, Type, stored, unpack
from timmx_coreml.mil.wire import Budget, Fields, blob, blobs, decode, integer, text

_MAX_DEPTH = 24
_MAX_ELEMENTS = 1 << 31
_IMMEDIATE = ((1, "float32"), (2, "int32"), (3, "bool"), (5, "int64"), (6, "float64"))


@dataclass(frozen=True)
class Blob:
    """A constant that lies in a weight file."""

    type: TensorType
    file: str
    offset: int


Constant = Blob | np.ndarray | str | list["Constant"]
"""A tensor in the file or inline, a string, or a list. Sub-byte tensors are unpacked."""


@dataclass(frozen=True)
class Literal:
    """An argument or attribute that is a value, not a name."""

    type: Type
    value: Constant


@dataclass(frozen=True)
class Named:
    """A name and its type: an output, or an input of a block."""

    name: str
    type: Type


@dataclass
class Operation:
    """One operation. An argument is a list of names and literals; most have one."""

    kind: str
    name: str
    inputs: dict[str, list[str | Literal]]
    outputs: list[Named]
    attributes: dict[str, Literal]
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Block:
    """Operations in order, and the names that come out."""

    inputs: list[Named]
    outputs: list[str]
    operations: list[Operation]


@dataclass
class Function:
    """A function of a program."""

    inputs: list[Named]
    opset: str
    block: Block


class Decoder:
    """Decodes messages of MIL with one budget and a bound on nesting."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def functions(self, data: memoryview) -> dict[str, Function]:
        """The functions of a `Program` message."""
        program = decode(data, self._budget)
        result = {}
        for key, value in self._entries(program, 2):
            result[key] = self._function(value)
        return result

    def _fields(self, data: memoryview | None) -> Fields:
        return decode(data, self._budget) if data is not None else {}

    def _entries(self, fields: Fields, number: int) -> list[tuple[str, memoryview]]:
        result = []
        for entry in blobs(fields, number):
            pair = self._fields(entry)
            result.append((text(blob(pair, 1)), blob(pair, 2) or memoryview(b"")))
        return result

    def _function(self, data: memoryview) -> Function:
        fields = self._fields(data)
        opset = text(blob(fields, 2))
        specializations = dict(self._entries(fields, 3))
        if opset not in specializations:
            raise ProgramError(f"the program has no body for its operation set {opset!r}")
        inputs = [self._named(item, 0) for item in blobs(fields, 1)]
        return Function(inputs, opset, self._block(specializations[opset], 0))

    def _block(self, data: memoryview, depth: int) -> Block:
        _check(depth)
        fields = self._fields(data)
        return Block(
            [self._named(item, depth) for item in blobs(fields, 1)],
            [text(item) for item in blobs(fields, 2)],
            [self._operation(item, depth + 1) for item in blobs(fields, 3)],
        )

    def _operation(self, data: memoryview, depth: int) -> Operation:
        fields = self._fields(data)
        attributes = {k: self._literal(v, depth) for k, v in self._entries(fields, 5)}
        name = attributes.pop("name", None)
        outputs = [self._named(item, depth) for item in blobs(fields, 3)]
        return Operation(
            kind=text(blob(fields, 1)),
            name=name.value if name and isinstance(name.value, str) else "",
            inputs={k: self._arguments(v, depth) for k, v in self._entries(fields, 2)},
            outputs=outputs,
            attributes=attributes,
            blocks=[self._block(item, depth + 1) for item in blobs(fields, 4)],
        )

    def _arguments(self, data: memoryview, depth: int) -> list[str | Literal]:
        result: list[str | Literal] = []
        for item in blobs(self._fields(data), 1):
            binding = self._fields(item)
            value = blob(binding, 2)
            result.append(
                self._literal(value, depth) if value is not None else text(blob(binding, 1))
            )
        return result

    def _named(self, data: memoryview, depth: int) -> Named:
        fields = self._fields(data)
        return Named(text(blob(fields, 1)), self._type(blob(fields, 2), depth))

    def _type(self, data: memoryview | None, depth: int) -> Type:
        _check(depth)
        fields = self._fields(data)
        if 1 in fields:
            return self._tensor_type(self._fields(blob(fields, 1)))
        if 2 in fields:
            inner = blob(self._fields(blob(fields, 2)), 1)
            return ListType(self._type(inner, depth + 1) if inner is not None else None)
        if 4 in fields:
            return DictType()
        if 5 in fields:
            raise UnsupportedOperation("models with state")
        raise ProgramError("the model description is damaged: a value without a type")

    def _tensor_type(self, fields: Fields) -> TensorType:
        number = integer(fields, 1)
        dimensions = blobs(fields, 3)
        if integer(fields, 2) != len(dimensions) or len(dimensions) > 16:
            raise ProgramError("the model description is damaged: rank and dimensions disagree")
        shape: list[int | None] = []
        for item in dimensions:
            dimension = self._fields(item)
            constant = blob(dimension, 1)
            size = integer(self._fields(constant), 1) if constant is not None else None
            if size is not None and not 0 <= size <= _MAX_ELEMENTS:
                raise ProgramError(f"the program has a dimension of size {size}")
            shape.append(size)
        return TensorType(NAMES.get(number, f"number {number}"), tuple(shape))

    def _literal(self, data: memoryview, depth: int) -> Literal:
        _check(depth)
        fields = self._fields(data)
        kind = self._type(blob(fields, 2), depth)
        file = blob(fields, 5)
        if file is not None:
            if not isinstance(kind, TensorType):
                raise ProgramError("the model description is damaged: only tensors lie in files")
            place = self._fields(file)
            return Literal(kind, Blob(kind, text(blob(place, 1)), integer(place, 2)))
        immediate = self._fields(blob(fields, 3))
        if 3 in immediate:
            values = blobs(self._fields(blob(immediate, 3)), 1)
            return Literal(kind, [self._literal(item, depth + 1).value for item in values])
        if not isinstance(kind, TensorType):
            raise UnsupportedOperation("constants that are neither tensors nor lists")
        return Literal(kind, self._inline(kind, self._fields(blob(immediate, 1))))

    def _inline(self, kind: TensorType, fields: Fields) -> Constant:
        if None in kind.shape:
            raise ProgramError("the model description is damaged: a constant of open shape")
        count = math.prod(d for d in kind.shape if d is not None)
        if 4 in fields:
            strings = [text(item) for item in blobs(self._fields(blob(fields, 4)), 1)]
            if kind.dtype != "string":
                raise ProgramError("the model description is damaged: text where numbers belong")
            return strings[0] if kind.shape == () and len(strings) == 1 else list(strings)
        values = self._numbers(kind.dtype, count, fields)
        if values.size != count:
            raise ProgramError(f"a constant has {values.size} elements, its type says {count}")
        return values.reshape([d for d in kind.shape if d is not None])

    def _numbers(self, dtype: str, count: int, fields: Fields) -> np.ndarray:
        for number, kind in _IMMEDIATE:
            if number in fields:
                values = self._fields(blob(fields, number))
                return numbers(values, 1, kind, self._budget).astype(stored(dtype))
        raw = blob(self._fields(blob(fields, 7)), 1)
        data = np.frombuffer(raw if raw is not None else b"", np.uint8)
        if dtype in ("int4", "uint1", "uint2", "uint3", "uint4", "uint6"):
            return unpack(data, dtype, count)
        if data.size % stored(dtype).itemsize:
            raise ProgramError("the model description is damaged: a constant is cut off")
        return data.view(stored(dtype))


def _check(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ProgramError("the model description nests deeper than any real model")
