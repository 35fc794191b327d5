"""Matrix products."""

from __future__ import annotations

import torch
from torch.nn import functional

from timmx_coreml.mil.ops.registry import Arguments, op


@op("linear")
def linear(a: Arguments) -> torch.Tensor:
    return functional.linear(a.tensor("x"), a.tensor("weight"), a.maybe("bias"))


@op("matmul")
def matmul(a: Arguments) -> torch.Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    if a.flag("transpose_x"):
        x = x.transpose(-1, -2)
    if a.flag("transpose_y"):
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@op("einsum")
def einsum(a: Arguments) -> torch.Tensor:
    return torch.einsum(a.text("equation"), *a.many("values"))
