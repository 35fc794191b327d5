"""Branches, loops and lists."""

from __future__ import annotations

from typing import Any

import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, op

MAX_ITERATIONS = 10_000


@op("cond", moves=True)
def cond(a: Arguments) -> tuple[Any, ...]:
    return tuple(a.run_block(0 if a.flag("pred") else 1, []))


@op("while_loop", moves=True)
def while_loop(a: Arguments) -> tuple[Any, ...]:
    values = a.many("loop_vars")
    for _ in range(MAX_ITERATIONS):
        (going,) = a.run_block(0, values)
        if not bool(going):
            return tuple(values)
        values = a.run_block(1, values)
    raise ProgramError(f"a loop did not end within {MAX_ITERATIONS} rounds")


@op("make_list", moves=True)
def make_list(a: Arguments) -> list[torch.Tensor | None]:
    length = a.integer("init_length", 1)
    if not 0 <= length <= MAX_ITERATIONS:
        raise ProgramError(f"a list of {length} tensors")
    return [None] * length


@op("list_write", moves=True)
def list_write(a: Arguments) -> list[Any]:
    values, index = list(a.any("ls")), a.integer("index")
    if not 0 <= index < MAX_ITERATIONS:
        raise ProgramError(f"element {index} of a list")
    values += [None] * (index + 1 - len(values))
    values[index] = a.tensor("value")
    return values


@op("list_read", moves=True)
def list_read(a: Arguments) -> torch.Tensor:
    return _element(a.any("ls"), a.integer("index"))


@op("list_gather", moves=True)
def list_gather(a: Arguments) -> torch.Tensor:
    values = a.any("ls")
    return torch.stack([_element(values, index) for index in a.integers("indices")])


@op("list_length", moves=True)
def list_length(a: Arguments) -> torch.Tensor:
    return torch.tensor(len(a.any("ls")), dtype=torch.int32)


@op("list_scatter", moves=True)
def list_scatter(a: Arguments) -> list[Any]:
    values = list(a.any("ls"))
    for index, value in zip(a.integers("indices"), a.tensor("value"), strict=True):
        if not 0 <= index < MAX_ITERATIONS:
            raise ProgramError(f"element {index} of a list")
        values += [None] * (index + 1 - len(values))
        values[index] = value
    return values


def _element(values: list[Any], index: int) -> torch.Tensor:
    value = values[index] if -len(values) <= index < len(values) else None
    if not isinstance(value, torch.Tensor):
        raise ProgramError(f"element {index} of a list of {len(values)} was never written")
    return value
