"""Operators taken apart into what XNNPACK takes whole.

ExecuTorch leaves layer norms, attention, selections and some reshapes to its portable kernels,
which run on one thread, and each of which ends a part of the program that XNNPACK runs. Written in
other operators they stay inside it. Where a function gives `NotImplemented`, the operator stays as
it is. Everything here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
LARGE = 512  # pixels


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,  # noqa: ARG001 - the operator has it
) -> Any:
    """XNNPACK has no sums over the last dimension, and a matrix product is one."""
    if len(shape) != 1:
        return NotImplemented
    centred = x - mean_of_last(x)
    y = centred * torch.rsqrt(mean_of_last(centred * centred) + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def gelu(x: Tensor, *, approximate: str = "none") -> Any:
    """XNNPACK has tanh's form to four digits only; its sigmoid has all of them.

    0.5 * (1 + tanh(z)) = sigmoid(2 * z).
    """
    if approximate != "tanh":
        return NotImplemented
    scale = 2 * math.sqrt(2 / math.pi)
    return x * torch.sigmoid(x * (x * x * (0.044715 * scale) + scale))


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,  # noqa: ARG001 - the operator has it
) -> Any:
    """Over an image of a single column, as which XNNPACK averages it."""
    wide = x.reshape(x.shape[0], groups, -1, 1)
    centred = wide - aten.mean.dim(wide, [2, 3], True)
    variance = aten.mean.dim(centred * centred, [2, 3], True)
    y = (centred * torch.rsqrt(variance + eps)).reshape(x.shape)
    channels = [1, x.shape[1]] + [1] * (x.dim() - 2)
    if weight is not None:
        y = y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """With batch and heads in one dimension, so that nothing has to be expanded."""
    lead = query.shape[:-2]
    same = key.shape[:-2] == lead and value.shape[:-2] == lead
    floats = attn_mask is None or attn_mask.is_floating_point()
    if is_causal or enable_gqa or dropout_p or not same or not floats:
        return NotImplemented
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    weights = torch.bmm(flat(query * factor), flat(key).transpose(1, 2))
    if attn_mask is not None:
        wide = weights.reshape(*lead, *weights.shape[1:]) + attn_mask
        weights = torch.softmax(wide, -1).reshape(weights.shape)
    else:
        weights = torch.softmax(weights, -1)
    result = torch.bmm(weights, flat(value))
    return result.reshape(*lead, *result.shape[1:])


def matmul(a: Tensor, b: Tensor) -> Any:
    """Of more than three dimensions: likewise."""
    if a.dim() < 4 or a.dim() != b.dim() or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    result = torch.bmm(flat(a), flat(b))
    return result.reshape(*a.shape[:-2], *result.shape[1:])


def select(x: Tensor, dim: int, index: int) -> Any:
    """A slice, without the dimension."""
    dim %= x.dim()
    index = index + x.shape[dim] if index < 0 else index
    part = aten.slice.Tensor(x, dim, index, index + 1)
    return part.reshape([*x.shape[:dim], *x.shape[dim + 1 :]])


def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    """Slices, without the dimension."""
    return [select(x, dim, index) for index in range(x.shape[dim])]


def split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    """Slices."""
    whole = x.shape[dim]
    return [
        aten.slice.Tensor(x, dim, start, min(start + size, whole))
        for start in range(0, whole, size)
    ]


def split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Slices."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [
        aten.slice.Tensor(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)
    ]


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """The two parts, exchanged."""
    if len(dims) != len(shifts):
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        cut = size - shift % size
        if cut != size:
            parts = [aten.slice.Tensor(x, dim, cut, size), aten.slice.Tensor(x, dim, 0, cut)]
            x = torch.cat(parts, dim)
    return x


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """A reshape."""
    dim %= x.dim() + 1
    return x.reshape(*x.shape[:dim], 1, *x.shape[dim:])


def squeeze(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A reshape."""
    gone = {d % x.dim() for d in dims}
    return x.reshape([size for d, size in enumerate(x.shape) if d not in gone or size != 1])


def squeeze_one(x: Tensor, dim: int) -> Tensor:
    """A reshape."""
    return squeeze(x, [dim])


def mean(
    x: Tensor,
    dim: Sequence[int] | None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
    *,
    precise: bool = True,
) -> Any:
    """XNNPACK averages images, and with `keepdim`.

    :param precise: average the rows of a large image first: pixel after pixel half of the digits
        are lost where many are alike.
    """
    if dtype is not None or not dim or x.dim() < 2:
        return NotImplemented
    gone = sorted(d % x.dim() for d in dim)
    kept = [d for d in range(x.dim()) if d not in gone]
    final = [1 if d in gone else size for d, size in enumerate(x.shape) if keepdim or d in kept]
    count = math.prod(x.shape[d] for d in gone)
    if x.dim() == 4 and gone == [2, 3]:
        if precise and count >= LARGE:
            x = aten.avg_pool2d.default(x, [1, x.shape[3]], [1, x.shape[3]])
        elif keepdim:
            return NotImplemented
        return aten.mean.dim(x, gone, True).reshape(final)
    if gone == [x.dim() - 1]:
        return mean_of_last(x).reshape(final)
    if 0 in gone:
        return NotImplemented
    image = x.permute(*kept, *gone).reshape(x.shape[0], -1, count, 1)
    return aten.mean.dim(image, [2, 3], True).reshape(final)


def flat(x: Tensor) -> Tensor:
    """(..., N, C) to (all else, N, C)."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def mean_of_last(x: Tensor) -> Tensor:
    """(..., C) to (..., 1), as a linear layer."""
    count = x.shape[-1]
    # Of no tensor's, so that it is known to be constant.
    weight = torch.full((1, count), 1.0 / count, dtype=x.dtype, device=x.device)
    result: Tensor = aten.linear.default(x, weight)
    return result


TABLE: dict[Any, Callable[..., Any]] = {
    aten.gelu.default: gelu,
    aten.group_norm.default: group_norm,
    aten.layer_norm.default: layer_norm,
    aten.matmul.default: matmul,
    aten.mean.dim: mean,
    aten.roll.default: roll,
    aten.scaled_dot_product_attention.default: attention,
    aten.select.int: select,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.squeeze.dim: squeeze_one,
    aten.squeeze.dims: squeeze,
    aten.unbind.int: unbind,
    aten.unsqueeze.default: unsqueeze,
}


def apply(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same computation in operators that XNNPACK takes."""
    from executorch.exir.operator.util import _QUANT_PRIMITIVES
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    table = dict(TABLE)
    if any(node.target in _QUANT_PRIMITIVES for node in program.graph.nodes):
        table[aten.mean.dim] = partial(mean, precise=False)  # it is whole in integers alone
    program = program.run_decompositions(table)
    _drop_aliases(program.graph)
    _infer_batch(program.graph)
    program.graph.eliminate_dead_code()
    # What follows from weights alone is computed now; quantized weights stay small.
    folded: torch.export.ExportedProgram = constant_prop_pass(
        program, custom_skip_targets=set(_QUANT_PRIMITIVES)
    )
    return folded


def _drop_aliases(graph: torch.fx.Graph) -> None:
    for node in graph.nodes:
        if node.target == aten.alias.default:
            node.replace_all_uses_with(node.args[0])


def _infer_batch(graph: torch.fx.Graph) -> None:
    """Let reshapes infer the one dimension that varies: XNNPACK takes no other such."""
    for node in graph.nodes:
        if node.target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
            sizes = list(node.args[1])
            varying = [i for i, size in enumerate(sizes) if not isinstance(size, int)]
            if len(varying) == 1 and -1 not in sizes:
                sizes[varying[0]] = -1
                node.args = (node.args[0], sizes)
