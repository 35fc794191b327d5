"""Compressed weights, expanded by the interpreter and by the converter's own arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mil_programs
import numpy as np
import pytest

from timmx_coreml.palettes import palettize

mb = pytest.importorskip("coremltools.converters.mil").Builder


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def indices(*shape: int, below: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, below, shape).astype(np.uint8)


def check(tmp_path: Path, constant: Any, want: np.ndarray, target: str) -> None:
    """x plus the constant, read back from the weight file."""
    x = random(*want.shape, seed=9)
    (got,) = mil_programs.run(
        tmp_path / "m.mlpackage", lambda x: mb.add(x=x, y=constant()), [x], target
    )
    np.testing.assert_allclose(got, x + want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [0, 1])
def test_affine_dequantize(dtype: type, axis: int, tmp_path: Path) -> None:
    data: np.ndarray = np.random.default_rng(0).integers(0, 100, (16, 32)).astype(dtype)
    count = data.shape[axis]
    scale = np.abs(random(count)) + 0.01
    zero: np.ndarray = np.arange(count).astype(dtype)
    shape = (-1, 1) if axis == 0 else (1, -1)
    want = (data.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
    check(
        tmp_path,
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=data, scale=scale, zero_point=zero, axis=axis
        ),
        want,
        "iOS16",
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_lut_to_dense_packed(bits: int, tmp_path: Path) -> None:
    """An odd number of indices, so that the last byte is not full."""
    picks = indices(7, 9, below=1 << bits)
    lut = random(1 << bits)
    stream = np.unpackbits(picks.reshape(-1, 1), axis=1, bitorder="little")[:, :bits]
    packed = np.packbits(stream.reshape(-1), bitorder="little")
    check(
        tmp_path,
        lambda: mb.constexpr_lut_to_dense(
            indices=packed, lut=lut, shape=np.array([7, 9], np.uint32)
        ),
        lut[picks],
        "iOS16",
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_lut_to_dense_by_group(bits: int, tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import types

    picks = indices(6, 10, below=1 << bits)
    stored = picks.astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}")))
    lut = random(3, 1, 1 << bits, 1)
    want = np.stack([lut[row // 2, 0, picks[row], 0] for row in range(6)])
    check(tmp_path, lambda: mb.constexpr_lut_to_dense(indices=stored, lut=lut), want, "iOS18")


def test_lut_of_vectors(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import types

    picks = indices(4, 3, below=4)
    stored = picks.astype(types.nptype_from_builtin(types.uint2))
    lut = random(1, 1, 4, 2)
    want = lut[0, 0][picks].transpose(0, 2, 1).reshape(8, 3)
    check(
        tmp_path,
        lambda: mb.constexpr_lut_to_dense(indices=stored, lut=lut, vector_axis=np.int32(0)),
        want,
        "iOS18",
    )


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
def test_blockwise_shift_scale(kind: str, tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import types

    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}[kind]
    values = np.random.default_rng(0).integers(low, high, (4, 6))
    offsets = np.random.default_rng(1).integers(low, high, (4, 2))
    dtype = types.nptype_from_builtin(types.string_to_builtin(kind))
    scale = np.abs(random(4, 2)) + 0.1
    want = (values - offsets.repeat(3, 1)) * scale.repeat(3, 1)
    check(
        tmp_path,
        lambda: mb.constexpr_blockwise_shift_scale(
            data=values.astype(dtype), scale=scale, offset=offsets.astype(dtype)
        ),
        want.astype(np.float32),
        "iOS18",
    )


def test_sparse_to_dense(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import types

    mask = np.random.default_rng(0).random((5, 7)) < 0.4
    values = random(int(mask.sum()))
    want = np.zeros((5, 7), np.float32)
    want[mask] = values
    packed = np.packbits(mask.reshape(-1), bitorder="little")
    check(
        tmp_path / "old",
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=values, mask=packed, shape=np.array([5, 7], np.uint32)
        ),
        want,
        "iOS16",
    )
    bits = mask.astype(types.nptype_from_builtin(types.uint1))
    check(
        tmp_path / "new",
        lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=bits),
        want,
        "iOS18",
    )


@pytest.mark.parametrize("bits", [4, 6])
def test_palettes_are_near_the_best(bits: int) -> None:
    """For normal numbers the best scalar quantizers reach 20.2 and 31.9 dB.

    With one bit fewer they reach 14.6 and 26.0 dB, which a palette of this size must be far above.
    """
    weight = random(64, 32, 3, 3).astype(np.float16)
    table, picks = palettize(weight, bits)
    assert table.dtype == np.float16
    assert table.shape == (1 << bits,)
    error = table[picks].reshape(weight.shape).astype(np.float64) - weight
    snr = 10 * np.log10(weight.astype(np.float64).var() / (error**2).mean())
    assert snr > {4: 16.5, 6: 27.5}[bits]
    again, same = palettize(weight, bits)
    assert np.array_equal(table, again)
    assert np.array_equal(picks, same)


def test_palettes_of_few_values_are_exact() -> None:
    weight = np.array([[1, 2, 2], [3, 1, 3]], np.float32)
    table, picks = palettize(weight, 4)
    np.testing.assert_array_equal(table[picks].reshape(2, 3), weight)
