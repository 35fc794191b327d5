"""Operations that change shape and order, not values."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, axis_of, op, within_limit


@op("reshape", moves=True)
def reshape(a: Arguments) -> torch.Tensor:
    x, shape = a.tensor("x"), a.integers("shape")
    if 0 in shape and len(shape) == x.ndim:
        shape = [have if want == 0 else want for have, want in zip(x.shape, shape, strict=True)]
    return x.reshape(shape)


@op("reshape_like", moves=True)
def reshape_like(a: Arguments) -> torch.Tensor:
    shape: list[int] = []
    parts = zip(
        a.many("ref_tensors"), a.many("begins"), a.many("ends"), a.many("end_masks"), strict=True
    )
    for reference, begin, end, mask in parts:
        shape += reference.shape[int(begin) : None if bool(mask) else int(end)]
    return a.tensor("x").reshape(shape)


@op("expand_dims", moves=True)
def expand_dims(a: Arguments) -> torch.Tensor:
    x, axes = a.tensor("x"), a.integers("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze", moves=True)
def squeeze(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    if not a.has("axes"):
        return x.squeeze()
    axes = {axis_of(axis, x.ndim) for axis in a.integers("axes")}
    if any(x.shape[axis] != 1 for axis in axes):
        raise ProgramError(f"axes {sorted(axes)} of shape {list(x.shape)} cannot be dropped")
    return x.reshape([size for i, size in enumerate(x.shape) if i not in axes])


@op("flatten2d", moves=True)
def flatten2d(a: Arguments) -> torch.Tensor:
    x, axis = a.tensor("x"), a.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@op("transpose", moves=True)
def transpose(a: Arguments) -> torch.Tensor:
    return a.tensor("x").permute(a.integers("perm"))


@op("concat", moves=True)
def concat(a: Arguments) -> torch.Tensor:
    values, axis = a.many("values"), a.integer("axis")
    if not a.flag("interleave"):
        return torch.cat(values, axis)
    stacked = torch.stack(values, axis_of(axis, values[0].ndim) + 1)
    return stacked.flatten(axis_of(axis, values[0].ndim), axis_of(axis, values[0].ndim) + 1)


@op("stack", moves=True)
def stack(a: Arguments) -> torch.Tensor:
    return torch.stack(a.many("values"), a.integer("axis"))


@op("split", moves=True)
def split(a: Arguments) -> tuple[torch.Tensor, ...]:
    x = a.tensor("x")
    axis = axis_of(a.integer("axis"), x.ndim)
    if a.has("split_sizes"):
        sizes = a.integers("split_sizes")
    else:
        count = a.integer("num_splits")
        if count < 1 or x.shape[axis] % count:
            raise ProgramError(f"{x.shape[axis]} cannot be split into {count} equal parts")
        sizes = [x.shape[axis] // count] * count
    return torch.split(x, sizes, axis)


@op("tile", moves=True)
def tile(a: Arguments) -> torch.Tensor:
    x, reps = a.tensor("x"), a.integers("reps")
    if len(reps) != x.ndim:
        raise ProgramError("tile wants a count for each dimension")
    within_limit([size * count for size, count in zip(x.shape, reps, strict=True)])
    return x.repeat(reps)


@op("reverse", moves=True)
def reverse(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return x.flip(a.integers("axes", range(x.ndim)))


@op("reverse_sequence", moves=True)
def reverse_sequence(a: Arguments) -> torch.Tensor:
    x, lengths = a.tensor("x"), a.integers("lengths")
    batch, sequence = a.integer("batch_axis", 0), a.integer("seq_axis", 0)
    rows = list(x.unbind(axis_of(batch, x.ndim)))
    axis = axis_of(sequence, x.ndim)
    axis -= axis > axis_of(batch, x.ndim)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        head, tail = row.narrow(axis, 0, length), row.narrow(axis, length, row.shape[axis] - length)
        rows[i] = torch.cat([head.flip(axis), tail], axis)
    return torch.stack(rows, axis_of(batch, x.ndim))


@op("pad", moves=True)
def pad(a: Arguments) -> torch.Tensor:
    x, amounts = a.tensor("x"), a.integers("pad")
    count = len(amounts) // 2
    if len(amounts) % 2 or count > x.ndim:
        raise ProgramError(f"padding {amounts} of a tensor of rank {x.ndim}")
    pairs = [(0, 0)] * (x.ndim - count) + [
        (amounts[2 * i], amounts[2 * i + 1]) for i in range(count)
    ]
    within_limit([size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True)])
    mode = a.choose(
        "mode",
        a.text("mode", "constant"),
        {"constant": "constant", "reflect": "reflect", "replicate": "replicate"},
    )
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return functional.pad(x, flat, value=a.number("constant_val", 0.0))
    for axis, (before, after) in enumerate(pairs):
        x = _mirrored(x, axis, before, after, mode)
    return x


def _mirrored(x: torch.Tensor, axis: int, before: int, after: int, mode: str) -> torch.Tensor:
    """One axis padded by reflection, or by repeating its ends: indices, for any rank and type."""
    if not before and not after:
        return x
    size = x.shape[axis]
    index = torch.arange(-before, size + after)
    if mode == "replicate":
        index = index.clamp(0, size - 1)
    else:
        if max(before, after) >= size:
            raise ProgramError(f"a reflection of {max(before, after)} in a dimension of {size}")
        index = (size - 1) - ((size - 1) - index.abs()).abs()
    return x.index_select(axis, index)


@op("depth_to_space", moves=True)
def depth_to_space(a: Arguments) -> torch.Tensor:
    x, b = a.tensor("x"), a.integer("block_size")
    n, c, h, w = x.shape
    x = x.reshape(n, b, b, c // (b * b), h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@op("space_to_depth", moves=True)
def space_to_depth(a: Arguments) -> torch.Tensor:
    x, b = a.tensor("x"), a.integer("block_size")
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // b, b, w // b, b)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@op("pixel_shuffle", moves=True)
def pixel_shuffle(a: Arguments) -> torch.Tensor:
    return functional.pixel_shuffle(a.tensor("x"), a.integer("upscale_factor"))


@op("pixel_unshuffle", moves=True)
def pixel_unshuffle(a: Arguments) -> torch.Tensor:
    return functional.pixel_unshuffle(a.tensor("x"), a.integer("downscale_factor"))


@op("space_to_batch", moves=True)
def space_to_batch(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    bh, bw = a.integers("block_shape")
    top, bottom, left, right = a.integers("paddings")
    x = functional.pad(x, [left, right, top, bottom])
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // bh, bh, w // bw, bw)
    return x.permute(3, 5, 0, 1, 2, 4).reshape(n * bh * bw, c, h // bh, w // bw)


@op("batch_to_space", moves=True)
def batch_to_space(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    bh, bw = a.integers("block_shape")
    top, bottom, left, right = a.integers("crops")
    n, c, h, w = x.shape
    x = x.reshape(bh, bw, n // (bh * bw), c, h, w).permute(2, 3, 4, 0, 5, 1)
    x = x.reshape(n // (bh * bw), c, h * bh, w * bw)
    return x[:, :, top : h * bh - bottom, left : w * bw - right]
