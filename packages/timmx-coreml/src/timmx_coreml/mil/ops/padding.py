"""Spatial padding, shared by convolutions and pools."""

from __future__ import annotations

import torch
from torch.nn import functional

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments


def spatial_padding(
    a: Arguments,
    sizes: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> list[tuple[int, int]]:
    """Padding before and after each spatial dimension, for the operation's `pad_type`."""
    rank = len(sizes)
    if min(strides) < 1 or min(dilations) < 1 or min(kernel) < 1:
        raise ProgramError("kernel sizes, strides and dilations are at least 1")
    kind = a.choose(
        "pad_type",
        a.text("pad_type", "valid"),
        {"valid": "valid", "custom": "custom", "same": "same", "same_lower": "same_lower"},
    )
    if kind == "valid":
        return [(0, 0)] * rank
    if kind == "custom":
        flat = a.integers("pad", [0] * 2 * rank)
        if len(flat) != 2 * rank or min(flat) < 0:
            raise ProgramError(f"padding {flat} for {rank} dimensions")
        return [(flat[2 * i], flat[2 * i + 1]) for i in range(rank)]
    result = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        extent = (width - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if kind == "same" else (large, small))
    return result


def pad_spatial(
    x: torch.Tensor, padding: list[tuple[int, int]], value: float = 0.0
) -> torch.Tensor:
    """x with its last dimensions padded."""
    flat = [amount for pair in reversed(padding) for amount in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x
