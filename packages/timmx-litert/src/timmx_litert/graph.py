"""A LiteRT flatbuffer in memory: its one graph, to be looked at, changed and written again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from timmx_core.errors import ExportError
from timmx_litert.container import IDENTIFIER

OLDEST_CODES = 127  # greater ones are in the newer of two fields
VERSIONS = {"DEQUANTIZE": 3}  # the first that does what is asked for here
ALIGNMENT = 16  # of buffers, as the schema asks for
NUMPY: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.BOOL: np.dtype(np.bool_),
    schema.TensorType.INT16: np.dtype(np.int16),
    schema.TensorType.INT8: np.dtype(np.int8),
}
TYPES = {dtype: code for code, dtype in NUMPY.items()}
NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()
}


class Graph:
    """One model of one graph. Tensors are indices, as operators name them.

    `model`, `operators` and `tensors` are the objects of LiteRT's own schema.
    """

    def __init__(self, data: bytes) -> None:
        self.model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
        if len(self.model.subgraphs) != 1 or len(self.model.signatureDefs or ()) != 1:
            raise ExportError("the converter did not write one graph with one signature")
        self.main: Any = self.model.subgraphs[0]
        for buffer in self.model.buffers:
            if buffer.offset > 1:  # the quantizer puts its numbers behind the flatbuffer
                buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0

    # ---- looking

    @property
    def operators(self) -> list[Any]:
        return self.main.operators  # type: ignore[no-any-return]

    @property
    def tensors(self) -> list[Any]:
        return self.main.tensors  # type: ignore[no-any-return]

    @property
    def inputs(self) -> dict[str, int]:
        """The tensors of the signature's inputs by name."""
        return {_text(p.name): int(p.tensorIndex) for p in self.model.signatureDefs[0].inputs}

    @property
    def outputs(self) -> dict[str, int]:
        return {_text(p.name): int(p.tensorIndex) for p in self.model.signatureDefs[0].outputs}

    def kind(self, operator: Any) -> str:
        """The builtin operator's name: "CONV_2D"."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def counts(self) -> dict[str, int]:
        """How often each operator occurs, most frequent first."""
        counts = Counter(self.kind(operator) for operator in self.operators)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def shape(self, tensor: int) -> tuple[int, ...]:
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def numbers(self, tensor: int) -> tuple[str, tuple[float, int] | None]:
        """The type of a tensor's numbers, and scale and zero point where they stand for others."""
        found = self.tensors[tensor]
        dtype = str(NUMPY[found.type])
        quantization = found.quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
            return dtype, None
        return dtype, (float(quantization.scale[0]), int(quantization.zeroPoint[0]))

    def array(self, tensor: int) -> np.ndarray | None:
        """The value of a constant; None for what the graph computes."""
        found = self.tensors[tensor]
        data = self.model.buffers[found.buffer].data
        if data is None or len(data) == 0 or found.type not in NUMPY:
            return None
        array: np.ndarray = np.frombuffer(data, NUMPY[found.type]).reshape(self.shape(tensor))
        return array

    def producers(self) -> dict[int, Any]:
        """The operator that makes each tensor."""
        return {int(t): operator for operator in self.operators for t in operator.outputs}

    def users(self) -> dict[int, list[Any]]:
        """The operators that take each tensor, once for every time that they take it."""
        found: dict[int, list[Any]] = {}
        for operator in self.operators:
            for tensor in operator.inputs:
                found.setdefault(int(tensor), []).append(operator)
        return found

    # ---- changing

    def add_constant(self, array: np.ndarray, name: str) -> int:
        """A new constant tensor."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        index = self.add_tensor(array.shape, TYPES[array.dtype], name)
        self.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def add_tensor(self, shape: tuple[int, ...], type_: int, name: str) -> int:
        """A new tensor that an operator will make."""
        tensor = schema.TensorT()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = type_
        tensor.name = name.encode()
        tensor.hasRank = True
        tensor.buffer = 0  # by convention the empty one
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        at: int | None = None,
        options: tuple[int, Any] | None = None,
    ) -> Any:
        """A new operator.

        :param at: how many operators are computed before it; None: all.
        :param options: a number of `schema.BuiltinOptions`, and the object.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, kind))
        operator.inputs, operator.outputs = _indices(inputs), _indices(outputs)
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = options
        self.operators.insert(len(self.operators) if at is None else at, operator)
        return operator

    def set_shape(self, tensor: int, shape: Sequence[int]) -> None:
        self.tensors[tensor].shape = np.array(shape, np.int32)

    def add_reshape(self, source: int, shape: Sequence[int], at: int) -> int:
        """What a new reshape makes of a tensor."""
        name = _text(self.tensors[source].name)
        result = self.add_tensor(tuple(shape), self.tensors[source].type, f"{name};{len(shape)}d")
        operator = self.add_operator("RESHAPE", [source], [result], at=at)
        self.turn_into_reshape(operator, source, shape)
        return result

    def turn_into_reshape(self, operator: Any, source: int, shape: Sequence[int]) -> None:
        """Let an operator with one result be a reshape of another tensor."""
        wanted = np.array(shape, np.int32)
        self.turn_into(operator, "RESHAPE", [source, self.add_constant(wanted, "shape")])
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = wanted

    def drop_unread(self) -> None:
        """Take out operators whose results nobody reads."""
        read = {int(t) for t in self.main.outputs}
        kept = []
        for operator in reversed(self.operators):  # who reads a result stands behind who makes it
            if any(int(t) in read for t in operator.outputs):
                read |= {int(t) for t in operator.inputs}
                kept.append(operator)
        self.main.operators = kept[::-1]

    def redirect(self, old: int, new: int) -> None:
        """Let whoever reads one tensor read another."""
        for operator in self.operators:
            if old in operator.inputs:
                operator.inputs = operator.inputs.copy()
                operator.inputs[operator.inputs == old] = new

    def turn_into(self, operator: Any, kind: str, inputs: Sequence[int]) -> None:
        """Let an operator without options be one of another kind."""
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, kind))
        operator.inputs = _indices(inputs)
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, OLDEST_CODES)
        code.version = VERSIONS.get(NAMES[builtin], 1)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def add_metadata(self, name: str, data: bytes) -> None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name.encode(), len(self.model.buffers) - 1
        self.model.metadata = [*(self.model.metadata or ()), entry]

    def name_tensors(self) -> None:
        """Ports by their names, all others by the modules that they come from, each once."""
        ports = {index: name for name, index in (self.inputs | self.outputs).items()}
        taken = set(ports.values())
        for index, tensor in enumerate(self.tensors):
            name = ports.get(index)
            if name is None:
                plain = re.sub(r"[\w.]+\.(\w+)", r"\1", _text(tensor.name)).strip(";") or "tensor"
                name = plain if plain not in taken else f"{plain};{index}"
                taken.add(name)
            tensor.name = name.encode()

    # ---- writing

    def pack(self) -> bytes:
        """The flatbuffer, without what nothing refers to."""
        self._drop_unused()
        sizes = sum(len(b.data) for b in self.model.buffers if b.data is not None)
        builder = _AlignedBuilder(sizes + (1 << 20))
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _drop_unused(self) -> None:
        main, model = self.main, self.model
        used = sorted(
            {int(t) for o in main.operators for t in (*o.inputs, *o.outputs) if t >= 0}
            | {int(t) for t in (*main.inputs, *main.outputs)}
        )
        place = {old: new for new, old in enumerate(used)} | {-1: -1}
        main.tensors = [main.tensors[old] for old in used]
        for operator in main.operators:
            operator.inputs = _indices(place[int(t)] for t in operator.inputs)
            operator.outputs = _indices(place[int(t)] for t in operator.outputs)
        main.inputs = _indices(place[int(t)] for t in main.inputs)
        main.outputs = _indices(place[int(t)] for t in main.outputs)
        for port in (*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs):
            port.tensorIndex = place[int(port.tensorIndex)]
        self._drop_buffers()
        self._drop_codes()

    def _drop_buffers(self) -> None:
        model = self.model
        holders = [*self.main.tensors, *(model.metadata or ())]
        used = sorted({0, *(int(holder.buffer) for holder in holders)})
        place = {old: new for new, old in enumerate(used)}
        model.buffers = [model.buffers[old] for old in used]
        for holder in holders:
            holder.buffer = place[int(holder.buffer)]
        model.metadataBuffer = None

    def _drop_codes(self) -> None:
        used = sorted({int(o.opcodeIndex) for o in self.main.operators})
        place = {old: new for new, old in enumerate(used)}
        self.model.operatorCodes = [self.model.operatorCodes[old] for old in used]
        for operator in self.main.operators:
            operator.opcodeIndex = place[int(operator.opcodeIndex)]


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]  # has no types
    """The schema wants buffers aligned, which the generated code for Python does not know."""

    def CreateNumpyVector(self, x: np.ndarray) -> Any:  # noqa: N802 - the library's own name
        if x.dtype != np.uint8:
            return super().CreateNumpyVector(x)
        self.StartVector(1, x.size, ALIGNMENT)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


def _indices(values: Any) -> np.ndarray:
    return np.fromiter(values, np.int32)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
