"""Reductions over axes, sorting and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable

import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, axis_of, op

_Reduce = Callable[[torch.Tensor, list[int], bool], torch.Tensor]


def _prod(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCE: dict[str, _Reduce] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "reduce_prod": _prod,
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


def _axes(a: Arguments, x: torch.Tensor) -> list[int]:
    given = a.integers("axes", [])
    return [axis_of(axis, x.ndim) for axis in given] if given else list(range(x.ndim))


@op(*_REDUCE)
def reduce(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    result = _REDUCE[a.kind](x, _axes(a, x), a.flag("keep_dims"))
    return result.to(x.dtype)


@op("reduce_mean")
def reduce_mean(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    wide = x if x.is_floating_point() else x.to(torch.float32)
    return wide.mean(_axes(a, x), keepdim=a.flag("keep_dims")).to(x.dtype)


@op("reduce_argmax", "reduce_argmin")
def reduce_arg(a: Arguments) -> torch.Tensor:
    function = torch.argmax if a.kind == "reduce_argmax" else torch.argmin
    x = a.tensor("x")
    return function(x, a.integer("axis", -1), keepdim=a.flag("keep_dims")).to(torch.int32)


@op("argsort")
def argsort(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    descending = not a.flag("ascending")
    result = torch.argsort(x, dim=a.integer("axis", -1), descending=descending, stable=True)
    return result.to(torch.int32)


@op("topk")
def topk(a: Arguments) -> torch.Tensor | tuple[torch.Tensor, ...]:
    x = a.tensor("x")
    axis = axis_of(a.integer("axis", -1), x.ndim)
    count = a.integer("k", 1)
    count = x.shape[axis] if count == -1 else count
    if not 0 <= count <= x.shape[axis]:
        raise ProgramError(f"the top {count} of {x.shape[axis]}")
    # Stable, so that among equals the first wins; `sort=False` allows any order.
    values, indices = torch.sort(x, dim=axis, descending=not a.flag("ascending"), stable=True)
    values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    return (values, indices.to(torch.int32)) if a.flag("return_indices", True) else values


@op("cumsum")
def cumsum(a: Arguments) -> torch.Tensor:
    x, axis = a.tensor("x"), a.integer("axis", 0)
    reverse = a.flag("reverse")
    data = x.flip(axis) if reverse else x
    total = torch.cumsum(data, axis, dtype=x.dtype)
    if a.flag("exclusive"):
        total = total - data
    return total.flip(axis) if reverse else total
