"""Maximum, average and L2 pools of one to three dimensions."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.padding import pad_spatial, spatial_padding
from timmx_coreml.mil.ops.registry import Arguments, op

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class _Window:
    """Kernel, strides and padding of a pool.

    `beyond` is how far the last window of each dimension reaches past the padded input
    (`ceil_mode`); what lies there counts for nothing.
    """

    def __init__(self, a: Arguments, x: torch.Tensor) -> None:
        self.rank = x.ndim - 2
        if self.rank not in _MAX:
            raise ProgramError(f"a pool of a tensor of rank {x.ndim}")
        sizes = list(x.shape[2:])
        self.kernel = a.integers("kernel_sizes")
        self.strides = a.integers("strides", [1] * self.rank)
        if len(self.kernel) != self.rank or len(self.strides) != self.rank:
            raise ProgramError("a pool whose kernel and input differ in rank")
        ones = [1] * self.rank
        self.padding = spatial_padding(a, sizes, self.kernel, self.strides, ones)
        self.beyond = [0] * self.rank
        if a.flag("ceil_mode"):
            self.beyond = [self._beyond(i, sizes[i]) for i in range(self.rank)]

    def _beyond(self, i: int, size: int) -> int:
        (before, after), kernel, stride = self.padding[i], self.kernel[i], self.strides[i]
        padded = size + before + after
        count = -(-(padded - kernel) // stride) + 1
        # A window must start inside the input or the padding before it.
        if (count - 1) * stride >= size + before and before + after > 0:
            count -= 1
        return max((count - 1) * stride + kernel - padded, 0)

    def padded(self, x: torch.Tensor, value: float, beyond: float) -> torch.Tensor:
        x = pad_spatial(x, self.padding, value)
        return pad_spatial(x, [(0, n) for n in self.beyond], beyond)


@op("max_pool")
def max_pool(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    window = _Window(a, x)
    x = window.padded(x, -math.inf, -math.inf)
    return _MAX[window.rank](x, window.kernel, window.strides)


@op("avg_pool")
def avg_pool(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    window = _Window(a, x)
    ones = torch.ones_like(x[:1, :1])
    counted = 0.0 if a.flag("exclude_padding_from_average") else 1.0
    pool = _AVERAGE[window.rank]
    total = pool(window.padded(x, 0.0, 0.0), window.kernel, window.strides)
    return total / pool(window.padded(ones, counted, 0.0), window.kernel, window.strides)


@op("l2_pool")
def l2_pool(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    window = _Window(a, x)
    mean = _AVERAGE[window.rank](window.padded(x.square(), 0.0, 0.0), window.kernel, window.strides)
    return torch.sqrt(mean * math.prod(window.kernel))
