"""Slices, windows and crops."""

from __future__ import annotations

import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, axis_of, op


def _ranges(a: Arguments, x: torch.Tensor) -> list[range]:
    """The positions that `begin`, `end`, `stride` and the masks select, for each dimension."""
    rank = x.ndim
    begin, end = a.integers("begin", [0] * rank), a.integers("end", [0] * rank)
    stride = a.integers("stride", [1] * rank)
    if not len(begin) == len(end) == len(stride) == rank:
        raise ProgramError(f"a slice whose bounds are not {rank} numbers")
    open_begin, open_end = a.flags("begin_mask", rank), a.flags("end_mask", rank)
    single = a.flags("squeeze_mask", rank)
    if not len(open_begin) == len(open_end) == len(single) == rank:
        raise ProgramError(f"a slice whose masks are not {rank} flags")
    result = []
    for i, size in enumerate(x.shape):
        if single[i]:
            first = 0 if open_begin[i] else begin[i]
            first += size if first < 0 else 0
            if not 0 <= first < size:
                raise ProgramError(f"element {begin[i]} of a dimension of {size}")
            result.append(range(first, first + 1))
            continue
        if stride[i] == 0:
            raise ProgramError("a slice with stride 0")
        bounds = slice(
            None if open_begin[i] else begin[i], None if open_end[i] else end[i], stride[i]
        )
        result.append(range(*bounds.indices(size)))
    return result


def _taken(x: torch.Tensor, axis: int, positions: range) -> torch.Tensor:
    if positions == range(x.shape[axis]):
        return x
    if positions.step == 1:
        return x.narrow(axis, positions.start if len(positions) else 0, len(positions))
    return x.index_select(axis, torch.tensor(positions, dtype=torch.long))


def _squeezed(a: Arguments, shape: torch.Size) -> list[int]:
    single = a.flags("squeeze_mask", len(shape))
    return [size for size, dropped in zip(shape, single, strict=True) if not dropped]


@op("slice_by_index", moves=True)
def slice_by_index(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    for axis, positions in enumerate(_ranges(a, x)):
        x = _taken(x, axis, positions)
    return x.reshape(_squeezed(a, x.shape))


@op("slice_update", moves=True)
def slice_update(a: Arguments) -> torch.Tensor:
    x, update = a.tensor("x").clone(), a.tensor("update")
    positions = _ranges(a, x)
    full = [len(p) for p in positions]
    grids = torch.meshgrid(*[torch.tensor(p, dtype=torch.long) for p in positions], indexing="ij")
    x[grids] = update.reshape(full)
    return x


@op("slice_by_size", moves=True)
def slice_by_size(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    begins, sizes = a.integers("begin"), a.integers("size")
    for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        start = begin + x.shape[axis] if begin < 0 else begin
        x = x.narrow(axis, start, x.shape[axis] - start if size == -1 else size)
    return x


@op("sliding_windows", moves=True)
def sliding_windows(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axis = axis_of(a.integer("axis"), x.ndim)
    return x.unfold(axis, a.integer("size"), a.integer("stride", 1)).movedim(-1, axis + 1)


@op("crop", moves=True)
def crop(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    (top, bottom), (left, right) = a.integers("crop_height"), a.integers("crop_width")
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
