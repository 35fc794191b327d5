"""`constexpr_*`: weights that are stored compressed and expanded when the model is loaded."""

from __future__ import annotations

import math

import numpy as np
import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.elementwise import along
from timmx_coreml.mil.ops.registry import Arguments, op, within_limit
from timmx_coreml.mil.types import unpack


@op("constexpr_cast")
def constexpr_cast(a: Arguments) -> torch.Tensor:
    return a.tensor("source_val")


@op("constexpr_affine_dequantize")
def constexpr_affine_dequantize(a: Arguments) -> torch.Tensor:
    data = a.tensor("quantized_data").to(torch.float32)
    shift = along(a.tensor("zero_point"), data, a).to(torch.float32)
    return (data - shift) * along(a.tensor("scale"), data, a)


@op("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(a: Arguments) -> torch.Tensor:
    data, scale = a.tensor("data").to(torch.float32), a.tensor("scale")
    return _shift_scale(data, scale, a.maybe("offset"))


def _shift_scale(
    data: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None
) -> torch.Tensor:
    if offset is not None:
        data = data - _blocks(offset.to(torch.float32), data.shape)
    return data * _blocks(scale, data.shape)


def _blocks(parameter: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A parameter per block, repeated for each element of its block."""
    if parameter.ndim != len(shape):
        raise ProgramError("weights and their scales differ in rank")
    for axis, (have, want) in enumerate(zip(parameter.shape, shape, strict=True)):
        if have == 0 or want % have:
            raise ProgramError(f"{want} weights cannot share {have} scales")
        if have not in (1, want):  # one is broadcast
            parameter = parameter.repeat_interleave(want // have, axis)
    return parameter


@op("constexpr_lut_to_dense", moves=True)
def constexpr_lut_to_dense(a: Arguments) -> torch.Tensor:
    lut = a.tensor("lut")
    if a.has("shape"):  # until iOS 17: one table, packed indices
        shape = within_limit(a.integers("shape"))
        width = _width(lut.numel())
        packed = a.tensor("indices").reshape(-1).to(torch.uint8).numpy()
        indices = _unpacked(packed, width, math.prod(shape))
        return lut.reshape(-1)[indices].reshape(shape)
    axis = a.integer("vector_axis") if a.has("vector_axis") else None
    return _look_up(a.tensor("indices").long(), lut, axis)


def _width(entries: int) -> int:
    if entries not in (2, 4, 8, 16, 64, 256):
        raise ProgramError(f"a look-up table of {entries} entries")
    return entries.bit_length() - 1


def _unpacked(packed: np.ndarray, width: int, count: int) -> torch.Tensor:
    if width == 8:
        if packed.size != count:
            raise ProgramError(f"{packed.size} indices for {count} weights")
        return torch.from_numpy(packed.astype(np.int64))
    return torch.from_numpy(unpack(packed, f"uint{width}", count).astype(np.int64))


def _look_up(indices: torch.Tensor, lut: torch.Tensor, vector_axis: int | None) -> torch.Tensor:
    """Tables per block: lut has the blocks' grid, then entries, then the vector's length."""
    if lut.ndim != indices.ndim + 2:
        raise ProgramError("a look-up table whose rank does not fit its indices")
    entries, length = lut.shape[-2:]
    if indices.numel() and int(indices.max()) >= entries:
        raise ProgramError("an index points outside of its look-up table")
    within_limit([*indices.shape, length])
    table = torch.zeros(indices.shape, dtype=torch.long)
    for axis, (have, want) in enumerate(zip(lut.shape[:-2], indices.shape, strict=True)):
        if have == 0 or want % have:
            raise ProgramError(f"{want} weights cannot share {have} look-up tables")
        shape = [-1 if i == axis else 1 for i in range(indices.ndim)]
        table = table * have + (torch.arange(want) // (want // have)).reshape(shape)
    vectors = lut.reshape(-1, length)[table * entries + indices]
    if length == 1:
        return vectors.squeeze(-1)
    if vector_axis is None:
        raise ProgramError("a look-up table of vectors without vector_axis")
    axis = vector_axis % indices.ndim
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@op("constexpr_sparse_to_dense", moves=True)
def constexpr_sparse_to_dense(a: Arguments) -> torch.Tensor:
    values = a.tensor("nonzero_data")
    if a.has("shape"):  # until iOS 17: a packed mask
        shape = within_limit(a.integers("shape"))
        packed = a.tensor("mask").reshape(-1).to(torch.uint8).numpy()
        mask = torch.from_numpy(unpack(packed, "uint1", math.prod(shape))).reshape(shape)
    else:
        mask = a.tensor("mask")
    return _dense(values, mask)


def _dense(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if int((mask != 0).sum()) != values.numel():
        raise ProgramError("a sparse weight whose mask does not fit its values")
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[mask != 0] = values.reshape(-1)
    return dense


@op("constexpr_lut_to_sparse", moves=True)
def constexpr_lut_to_sparse(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    mask = a.tensor("indices_mask")
    indices = _dense(a.tensor("indices_nonzero_data").long(), mask)
    axis = a.integer("vector_axis") if a.has("vector_axis") else None
    lut = a.tensor("lut")
    values = _look_up(indices, lut, axis)
    length = lut.shape[-1]
    if length > 1:
        mask = mask.repeat_interleave(length, (axis or 0) % mask.ndim)
    return mask, values[mask != 0]


@op("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    mask = a.tensor("data_mask")
    dense = _dense(a.tensor("nonzero_data").to(torch.float32), mask)
    return mask, _shift_scale(dense, a.tensor("scale"), a.maybe("offset"))[mask != 0]
