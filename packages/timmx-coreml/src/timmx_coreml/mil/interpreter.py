"""Runs a saved program with torch, in the precision that the program declares.

Every result declared fp16 is rounded to fp16 (a value beyond its range becomes infinite), and
everything within one operation is computed in float32. A device may accumulate in fp16 or fuse
operations; what it gives differs from this by as much as it departs from the program as written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timmx_coreml.mil.blobs import WeightFile
from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation
from timmx_coreml.mil.ops import MOVES, OPERATIONS
from timmx_coreml.mil.ops.registry import MAX_ELEMENTS, Arguments
from timmx_coreml.mil.package import Description, Feature, Package
from timmx_coreml.mil.program import Blob, Block, Constant, Decoder, Literal, Operation
from timmx_coreml.mil.types import FLOATS, TensorType, carrier, stored, to_carrier, to_numpy

_COMPUTED = (RuntimeError, IndexError, ValueError, TypeError, OverflowError, AttributeError)
_FREE_DTYPE = frozenset({"cast", "constexpr_cast", "classify"})
_PRIMARY = ("x", "data", "query", "a", "values", "input", "tensor")


def load(path: str | Path) -> Program:
    """Read an ML program.

    :param path: an `.mlpackage` folder.
    :raises ProgramError: where it is broken.
    :raises UnsupportedOperation: where it holds something that cannot be computed here.
    """
    return Program(Package(Path(path)))


class Program:
    """A loaded program; weights are expanded once, on loading."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.description: Description = package.description()
        data = package.program()
        if data is None:
            raise UnsupportedOperation(
                f"a Core ML model of kind {self.description.kind}",
                "the reference interpreter computes ML programs",
            )
        functions = Decoder(package.budget).functions(data)
        if "main" not in functions:
            raise ProgramError("the program has no function main")
        self._main = functions["main"]
        self.operations: Counter[str] = _count(self._main.block)
        unknown = sorted(k for k in self.operations if k not in OPERATIONS and k != "const")
        if unknown:
            raise UnsupportedOperation(f"operation {', '.join(unknown)}")
        self._types = {n.name: n.type for n in self._main.inputs}
        self._files: dict[Path, WeightFile] = {}
        self._literals: dict[int, Any] = {}
        self._constants: dict[str, Any] = {}
        with torch.inference_mode():
            self._prepare(self._main.block)
        self._last_use = _last_uses(self._main.block)

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The model's inputs."""
        return self.description.inputs

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """The model's outputs."""
        return self.description.outputs

    @property
    def classes(self) -> list[str] | None:
        """The labels of a classifier in the order of its probabilities; None for others."""
        for operation in self._main.block.operations:
            if operation.kind == "classify":
                values = self._argument(operation.inputs.get("classes", []), {})
                return [str(v) for v in values] if isinstance(values, list) else None
        return None

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate the program.

        :param inputs: for an array, an array of its shape. For an image, `uint8` (or whole
            numbers 0 to 255 in another type) of shape (H, W, 3), (H, W) or with 1 before; its
            channels are R, G, B whatever order the model takes.
        :return: arrays in the types that the program declares; for a classifier the label (str)
            and the probabilities (dict).
        :raises ProgramError: where an input does not fit, or the program contradicts itself.
        """
        values: dict[str, Any] = {}
        features = {f.name: f for f in self.inputs}
        names = {n.name for n in self._main.inputs}
        if set(inputs) != names:
            raise ProgramError(f"the model takes {sorted(names)}, not {sorted(inputs)}")
        for named in self._main.inputs:
            if not isinstance(named.type, TensorType):
                raise UnsupportedOperation("inputs that are no tensors")
            values[named.name] = _given(inputs[named.name], named.type, features.get(named.name))
        with torch.inference_mode():
            results = self._run(self._main.block, values, self._last_use)
        return {
            name: self._outgoing(name, value)
            for name, value in zip(self._main.block.outputs, results, strict=True)
        }

    def _outgoing(self, name: str, value: Any) -> Any:
        kind = self._types.get(name)
        if isinstance(value, torch.Tensor) and isinstance(kind, TensorType):
            return to_numpy(value, kind.dtype)
        return value

    def _prepare(self, block: Block) -> None:
        """Check declarations, and expand constants (`const`, `constexpr_*`) once."""
        for operation in block.operations:
            for output in operation.outputs:
                self._types[output.name] = output.type
                if isinstance(output.type, TensorType):
                    _check_size(output.type)
            for inner in operation.blocks:
                self._types |= {n.name: n.type for n in inner.inputs}
                self._prepare(inner)
            if operation.kind == "const":
                if "val" not in operation.attributes or len(operation.outputs) != 1:
                    raise ProgramError(f"constant {operation.name!r} has no value")
                literal = operation.attributes["val"]
                self._constants[operation.outputs[0].name] = self._literal(literal)
            elif operation.kind.startswith("constexpr_"):
                results = self._compute(operation, self._constants)
                for output, result in zip(operation.outputs, results, strict=True):
                    self._constants[output.name] = result
            else:
                self._check_dtypes(operation)

    def _check_dtypes(self, operation: Operation) -> None:
        """Floating-point operations give the type that they take; only casts change it."""
        if operation.kind in _FREE_DTYPE:
            return
        first = next((operation.inputs[n] for n in _PRIMARY if operation.inputs.get(n)), None)
        if first is None:
            return
        taken = self._type_of(first[0])
        for output in operation.outputs:
            given = output.type
            if not isinstance(given, TensorType) or not isinstance(taken, TensorType):
                continue
            if {given.dtype, taken.dtype} <= FLOATS and given.dtype != taken.dtype:
                raise ProgramError(
                    f"operation {operation.name or operation.kind} turns {taken.dtype} "
                    f"into {given.dtype} without a cast"
                )

    def _type_of(self, argument: str | Literal) -> Any:
        return self._types.get(argument) if isinstance(argument, str) else argument.type

    def _literal(self, literal: Literal) -> Any:
        known = self._literals.get(id(literal))
        if known is None:
            known = self._literals[id(literal)] = self._constant(literal.value, literal.type)
        return known

    def _constant(self, value: Constant, kind: Any) -> Any:
        if isinstance(value, Blob):
            shape = [d for d in value.type.shape if d is not None]
            if len(shape) != len(value.type.shape):
                raise ProgramError("a constant of open shape")
            path = self._package.weights(value.file)
            if path not in self._files:
                self._files[path] = WeightFile(path)
            array = self._files[path].read(value.offset, value.type.dtype, math.prod(shape))
            return to_carrier(array.reshape(shape), value.type.dtype)
        if isinstance(value, np.ndarray):
            dtype = kind.dtype if isinstance(kind, TensorType) else "int64"
            return to_carrier(value, dtype)
        if isinstance(value, list):
            inner = getattr(kind, "element", None)
            items = [self._constant(item, inner) for item in value]
            return [i.item() if isinstance(i, torch.Tensor) else i for i in items]
        return value

    def _run(
        self, block: Block, values: dict[str, Any], last_use: Mapping[int, Sequence[str]]
    ) -> list[Any]:
        for index, operation in enumerate(block.operations):
            if operation.kind == "const" or operation.kind.startswith("constexpr_"):
                continue
            results = self._compute(operation, values)
            for output, result in zip(operation.outputs, results, strict=True):
                values[output.name] = result
            for name in last_use.get(index, ()):
                values.pop(name, None)
        return [self._value(name, values) for name in block.outputs]

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        if name in self._constants:
            return self._constants[name]
        raise ProgramError(f"the program uses {name!r} before it is computed")

    def _argument(self, argument: list[str | Literal], values: Mapping[str, Any]) -> Any:
        items = [
            self._value(a, values) if isinstance(a, str) else self._literal(a) for a in argument
        ]
        return items[0] if len(items) == 1 else items

    def _compute(self, operation: Operation, values: Mapping[str, Any]) -> tuple[Any, ...]:
        arguments = {k: self._literal(v) for k, v in operation.attributes.items()}
        arguments |= {k: self._argument(v, values) for k, v in operation.inputs.items()}

        def run_block(number: int, given: Sequence[Any]) -> list[Any]:
            block = operation.blocks[number]
            names = [named.name for named in block.inputs]
            inner = dict(values) | dict(zip(names, given, strict=True))
            return self._run(block, inner, {})

        where = f"operation {operation.kind} ({operation.outputs[0].name})"
        try:
            result = OPERATIONS[operation.kind](Arguments(operation, arguments, run_block))
        except MemoryError as error:
            raise ProgramError(f"{where} needs more memory than there is") from error
        except (ProgramError, UnsupportedOperation) as error:
            raise type(error)(f"{where}: {error.message}", error.hint) from error
        except _COMPUTED as error:
            raise ProgramError(f"{where} cannot be computed: {_first_line(error)}") from error
        results = result if isinstance(result, tuple) else (result,)
        if len(results) < len(operation.outputs):
            raise ProgramError(f"{where} declares {len(operation.outputs)} outputs")
        return tuple(
            self._rounded(operation, named.type, value, where)
            for named, value in zip(operation.outputs, results, strict=False)
        )

    @staticmethod
    def _rounded(operation: Operation, kind: Any, value: Any, where: str) -> Any:
        if not isinstance(value, torch.Tensor) or not isinstance(kind, TensorType):
            return value
        if not kind.admits(tuple(value.shape)):
            raise ProgramError(
                f"{where} gives shape {list(value.shape)}, the program says {list(kind.shape)}"
            )
        want = carrier(kind.dtype)
        if operation.kind not in MOVES and kind.dtype == "fp16":
            return value.to(torch.float16).to(torch.float32)
        if value.dtype != want:
            if value.is_floating_point() != want.is_floating_point and operation.kind != "cast":
                raise ProgramError(f"{where} does not give {kind.dtype}")
            return value.to(want)
        return value


def _given(value: Any, kind: TensorType, feature: Feature | None) -> torch.Tensor:
    array = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value)
    if feature is not None and feature.kind == "image":
        array = _image(array, feature)
    if array.dtype.kind not in "fiub":
        raise ProgramError(f"an input of type {array.dtype}")
    if not kind.admits(array.shape) or (feature and not _size_allowed(feature, array.shape)):
        raise ProgramError(
            f"an input of shape {list(array.shape)}, the model takes "
            f"{[d if d is not None else 'any' for d in kind.shape]}"
        )
    return to_carrier(np.ascontiguousarray(array.astype(stored(kind.dtype))), kind.dtype)


def _image(array: np.ndarray, feature: Feature) -> np.ndarray:
    """(H, W, 3) or (H, W), possibly with 1 before, as the (1, C, H, W) that the program takes."""
    channels = 1 if feature.color == "GRAY" else 3
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] != channels:
        raise ProgramError(f"image {feature.name} of shape {list(array.shape)}")
    if feature.color == "BGR":
        array = array[..., ::-1]
    return array.transpose(2, 0, 1)[None].astype(np.float32)


def _size_allowed(feature: Feature, shape: tuple[int, ...]) -> bool:
    sizes = shape[-2:] if feature.kind == "image" else shape
    if feature.shapes:
        return sizes in feature.shapes
    if feature.sizes and len(feature.sizes) == len(sizes):
        return all(
            low <= size and (high is None or size <= high)
            for size, (low, high) in zip(sizes, feature.sizes, strict=True)
        )
    return not feature.shape or sizes == feature.shape


def _check_size(kind: TensorType) -> None:
    if math.prod(d for d in kind.shape if d is not None) > MAX_ELEMENTS:
        raise ProgramError(f"the program declares a tensor of shape {list(kind.shape)}")


def _count(block: Block) -> Counter[str]:
    counts: Counter[str] = Counter()
    for operation in block.operations:
        if not operation.outputs:
            raise UnsupportedOperation(f"operation {operation.kind} without outputs")
        counts[operation.kind] += 1
        for inner in operation.blocks:
            counts += _count(inner)
    return counts


def _names(operation: Operation) -> list[str]:
    names = [a for arguments in operation.inputs.values() for a in arguments if isinstance(a, str)]
    for block in operation.blocks:
        names += block.outputs
        for inner in block.operations:
            names += _names(inner)
    return names


def _last_uses(block: Block) -> dict[int, list[str]]:
    """After which operation each value is needed no more."""
    last: dict[str, int] = {}
    for index, operation in enumerate(block.operations):
        for name in _names(operation):
            last[name] = index
    result: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in block.outputs:
            result.setdefault(index, []).append(name)
    return result


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]
