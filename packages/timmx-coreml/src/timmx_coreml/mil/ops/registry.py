"""How an operation is registered, and how it reads its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation
from timmx_coreml.mil.program import Operation
from timmx_coreml.mil.types import DictType, ListType, TensorType

MAX_ELEMENTS = 1 << 28
"""The largest tensor that a program may make: 1 GiB in float32."""

Result = Any  # a tensor, or a tuple of what the operation gives
Function = Callable[["Arguments"], Result]
OPERATIONS: dict[str, Function] = {}
MOVES: set[str] = set()
"""Operations that only move values: their results need no rounding."""


def op(*names: str, moves: bool = False) -> Callable[[Function], Function]:
    """Register a function for operations of these names."""

    def register(function: Function) -> Function:
        for name in names:
            OPERATIONS[name] = function
            if moves:
                MOVES.add(name)
        return function

    return register


class Arguments:
    """The arguments of one operation, evaluated: tensors, strings, lists.

    `run_block` evaluates a nested block of it with given inputs.
    """

    def __init__(
        self,
        operation: Operation,
        values: Mapping[str, Any],
        run_block: Callable[[int, Sequence[Any]], list[Any]],
    ) -> None:
        self.operation = operation
        self.run_block = run_block
        self._values = values

    @property
    def kind(self) -> str:
        """The operation's name in MIL."""
        return self.operation.kind

    def has(self, name: str) -> bool:
        """Whether the argument was given."""
        return name in self._values

    def tensor(self, name: str) -> torch.Tensor:
        """A required tensor."""
        value = self.any(name)
        if not isinstance(value, torch.Tensor):
            raise ProgramError(f"argument {name} is no tensor")
        return value

    def maybe(self, name: str) -> torch.Tensor | None:
        """An optional tensor."""
        return self.tensor(name) if name in self._values else None

    def any(self, name: str) -> Any:
        """A required argument of whatever kind."""
        if name not in self._values:
            raise ProgramError(f"argument {name} is missing")
        return self._values[name]

    def many(self, name: str) -> list[Any]:
        """An argument that is a tuple."""
        value = self.any(name)
        return list(value) if isinstance(value, list) else [value]

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        if name not in self._values and default is not None:
            return default
        return int(self._scalar(name))

    def number(self, name: str, default: float | None = None) -> float:
        """A real number."""
        if name not in self._values and default is not None:
            return default
        return float(self._scalar(name))

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        return bool(self._scalar(name)) if name in self._values else default

    def text(self, name: str, default: str | None = None) -> str:
        """A word."""
        if name not in self._values and default is not None:
            return default
        value = self.any(name)
        if not isinstance(value, str):
            raise ProgramError(f"argument {name} is no word")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A list of whole numbers."""
        if name not in self._values and default is not None:
            return list(default)
        return [int(v) for v in self.tensor(name).reshape(-1).tolist()]

    def flags(self, name: str, count: int) -> list[bool]:
        """A list of booleans, by default all false."""
        if name not in self._values:
            return [False] * count
        return [bool(v) for v in self.tensor(name).reshape(-1).tolist()]

    def _scalar(self, name: str) -> Any:
        value = self.tensor(name)
        if value.numel() != 1:
            raise ProgramError(f"argument {name} has {value.numel()} elements, not one")
        return value.item()

    def output_type(self, index: int = 0) -> TensorType:
        """The declared type of an output."""
        kind = self.operation.outputs[index].type
        if isinstance(kind, (ListType, DictType)):
            raise ProgramError("an output is declared as something else than a tensor")
        return kind

    def choose(self, name: str, value: str, known: Mapping[str, Any]) -> Any:
        """What a mode stands for.

        :raises UnsupportedOperation: for one that is not known.
        """
        if value not in known:
            raise UnsupportedOperation(f"operation {self.kind} with {name} {value!r}")
        return known[value]


def axis_of(axis: int, rank: int) -> int:
    """An axis as a number from zero.

    :raises ProgramError: where there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ProgramError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def within_limit(shape: Sequence[int]) -> list[int]:
    """The shape of a tensor to be made, if it may be made.

    :raises ProgramError: where it is larger than any real one.
    """
    sizes = [int(s) for s in shape]
    if any(s < 0 for s in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise ProgramError(f"an operation would make a tensor of shape {sizes}")
    return sizes
