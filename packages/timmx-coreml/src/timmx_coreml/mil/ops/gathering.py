"""Gathering and scattering by index."""

from __future__ import annotations

import math

import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, axis_of, op, within_limit


def _indices(a: Arguments, size: int | torch.Tensor) -> torch.Tensor:
    """The operation's indices from zero; negative ones count from the end.

    :raises ProgramError: where one points outside.
    """
    indices = a.tensor("indices").long()
    indices = torch.where(indices < 0, indices + size, indices)
    if bool(((indices < 0) | (indices >= size)).any()):
        raise ProgramError("an index points outside of its tensor")
    return indices


@op("gather", moves=True)
def gather(a: Arguments) -> torch.Tensor:
    x, batch = a.tensor("x"), a.integer("batch_dims", 0)
    axis = axis_of(a.integer("axis", 0), x.ndim)
    indices = _indices(a, x.shape[axis])
    if not 0 <= batch <= min(axis, indices.ndim):
        raise ProgramError(f"gather along axis {axis} with {batch} batch dimensions")
    head, before = x.shape[:batch], x.shape[batch:axis]
    after, picked = x.shape[axis + 1 :], indices.shape[batch:]
    within_limit([*head, *before, *picked, *after])
    rows = math.prod(head)
    flat = x.reshape(rows, math.prod(before), x.shape[axis], math.prod(after))
    index = indices.expand(*head, *picked).reshape(rows, 1, -1, 1)
    index = index.expand(rows, flat.shape[1], index.shape[2], flat.shape[3])
    return flat.gather(2, index).reshape(*head, *before, *picked, *after)


@op("gather_along_axis", moves=True)
def gather_along_axis(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axis = axis_of(a.integer("axis", 0), x.ndim)
    return x.gather(axis, _indices(a, x.shape[axis]))


@op("gather_nd", moves=True)
def gather_nd(a: Arguments) -> torch.Tensor:
    x, batch = a.tensor("x"), a.integer("batch_dims", 0)
    depth = a.tensor("indices").shape[-1]
    sizes = torch.tensor(x.shape[batch : batch + depth])
    indices = _indices(a, sizes)
    if batch == 0:
        return x[tuple(indices.unbind(-1))]
    head = x.shape[:batch]
    flat = x.reshape(-1, *x.shape[batch:])
    rows = indices.reshape(flat.shape[0], *indices.shape[batch:])
    picked = [row[tuple(i.unbind(-1))] for row, i in zip(flat, rows, strict=True)]
    return torch.stack(picked).reshape(*head, *picked[0].shape)


_REDUCE = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def _scattered(
    a: Arguments, data: torch.Tensor, axis: int, index: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    mode = a.text("mode", "add")
    a.choose("mode", mode, {"update": "", **_REDUCE})
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        updates = -updates
    if mode == "div":
        updates = torch.reciprocal(updates)
    return data.scatter_reduce(axis, index, updates, _REDUCE[mode], include_self=True)


@op("scatter_along_axis")
def scatter_along_axis(a: Arguments) -> torch.Tensor:
    data = a.tensor("data")
    axis = axis_of(a.integer("axis", 0), data.ndim)
    return _scattered(a, data, axis, _indices(a, data.shape[axis]), a.tensor("updates"))


@op("scatter")
def scatter(a: Arguments) -> torch.Tensor:
    data, updates = a.tensor("data"), a.tensor("updates")
    axis = axis_of(a.integer("axis", 0), data.ndim)
    index = _indices(a, data.shape[axis])
    shape = [-1 if i == axis else 1 for i in range(data.ndim)]
    return _scattered(a, data, axis, index.reshape(shape).expand(updates.shape), updates)


@op("scatter_nd")
def scatter_nd(a: Arguments) -> torch.Tensor:
    data, updates = a.tensor("data"), a.tensor("updates")
    depth = a.tensor("indices").shape[-1]
    indices = _indices(a, torch.tensor(data.shape[:depth]))
    strides = torch.tensor([math.prod(data.shape[i + 1 : depth]) for i in range(depth)])
    rows = (indices * strides).sum(-1).reshape(-1, 1)
    flat = data.reshape(math.prod(data.shape[:depth]), -1)
    new = updates.reshape(rows.shape[0], -1)
    return _scattered(a, flat, 0, rows.expand(new.shape), new).reshape(data.shape)
