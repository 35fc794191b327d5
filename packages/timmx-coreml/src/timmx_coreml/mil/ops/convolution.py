"""Convolutions of one to three dimensions, and their transposes."""

from __future__ import annotations

import torch
from torch.nn import functional

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.padding import pad_spatial, spatial_padding
from timmx_coreml.mil.ops.registry import Arguments, op, within_limit

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@op("conv")
def conv(a: Arguments) -> torch.Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    rank = _spatial_rank(x)
    strides = a.integers("strides", [1] * rank)
    dilations = a.integers("dilations", [1] * rank)
    kernel = list(weight.shape[2:])
    padding = spatial_padding(a, list(x.shape[2:]), kernel, strides, dilations)
    groups = a.integer("groups", 1)
    if all(before == after for before, after in padding):
        inside = [before for before, _ in padding]
        return _CONV[rank](x, weight, a.maybe("bias"), strides, inside, dilations, groups)
    x = pad_spatial(x, padding)
    return _CONV[rank](x, weight, a.maybe("bias"), strides, 0, dilations, groups)


@op("conv_transpose")
def conv_transpose(a: Arguments) -> torch.Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    rank = _spatial_rank(x)
    strides = a.integers("strides", [1] * rank)
    dilations = a.integers("dilations", [1] * rank)
    groups = a.integer("groups", 1)
    full = _TRANSPOSE[rank](x, weight, None, strides, 0, 0, groups, dilations)
    wanted = a.integers("output_shape")[-rank:] if a.has("output_shape") else None
    kind = a.text("pad_type", "valid")
    for i in range(rank):
        have, size = full.shape[2 + i], x.shape[2 + i]
        before = 0
        length = have
        if kind == "custom":
            pad = a.integers("pad", [0] * 2 * rank)
            before, length = pad[2 * i], have - pad[2 * i] - pad[2 * i + 1]
        elif kind in ("same", "same_lower"):
            length = size * strides[i]
            total = max(have - length, 0)
            before = total // 2 if kind == "same" else total - total // 2
        if wanted is not None:
            length = wanted[i]
        full = _window(full, 2 + i, before, length)
    bias = a.maybe("bias")
    return full if bias is None else full + bias.reshape([1, -1] + [1] * rank)


def _window(x: torch.Tensor, axis: int, start: int, length: int) -> torch.Tensor:
    """`length` elements from `start`; what lies beyond the end is zero."""
    within_limit([length])
    x = x.narrow(axis, start, min(length, x.shape[axis] - start))
    missing = length - x.shape[axis]
    if missing <= 0:
        return x
    flat = [0, 0] * (x.ndim - 1 - axis) + [0, missing]
    return functional.pad(x, flat)


def _spatial_rank(x: torch.Tensor) -> int:
    rank = x.ndim - 2
    if rank not in _CONV:
        raise ProgramError(f"a convolution of a tensor of rank {x.ndim}")
    return rank
