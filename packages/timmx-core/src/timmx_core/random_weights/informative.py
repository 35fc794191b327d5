"""Random weights that make a meaningful test.

timm's initial weights hide much of a model: last norms at zero and LayerScales at 1e-6 switch
whole branches off, zero heads give zeros, and batch-norm statistics that fit no data make many
models ignore their input. A converter could drop such a branch and nobody would see it. So
weights that timmx made itself (never a user's) are made informative first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timmx_core.random_weights.conditioning import MEANS, steady
from timmx_core.random_weights.norm_statistics import norms_with_statistics, set_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

SCALE = (0.5, 1.5)  # range of gains that were constant
BIAS = 0.1  # standard deviation of biases that were constant
# A weight whose deviation is below this part of 1/sqrt(fan-in) passes next to nothing on.
FAINT = 0.1
# A vector below it throughout does nothing beside activations of the order of one.
VANISHING = 1e-3


def make_informative(
    model: torch.nn.Module, pixels: torch.Tensor, seed: int, means: Sequence[float] = MEANS
) -> None:
    """Give constant and vanishing parameters plausible values, then set batch-norm statistics.

    Where small differences would grow too much, what comes before an activation gets a mean.

    Which parameters are touched follows from their values alone: one whose elements are all
    equal, or nearly zero against its fan-in, carries no information.

    :param model: in eval mode; changed in place, and left in eval mode.
    :param pixels: normalised images (N, C, H, W), float32.
    :param means: see `conditioning.steady`.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _enliven(parameter, "bias" in name.rpartition(".")[2], generator)
    if norms_with_statistics(model):
        set_statistics(model, pixels)
        steady(model, pixels, means)


def _enliven(parameter: torch.nn.Parameter, is_bias: bool, generator: torch.Generator) -> None:
    import torch

    if not parameter.is_floating_point() or parameter.numel() == 0:
        return
    values = parameter.data
    first = float(values.reshape(-1)[0])
    # One number alone may be a temperature, which is as good as any.
    constant = parameter.numel() > 1 and bool((values == values.reshape(-1)[0]).all())
    vanishing = float(values.abs().max()) < VANISHING
    if sum(size > 1 for size in values.shape) >= 2:
        fan_in = values.numel() // values.shape[0]
        wanted = 1.0 / math.sqrt(max(fan_in, 1))
        if constant and first != 0:
            values.mul_(_uniform(values, generator))
        elif constant or float(values.std()) < FAINT * wanted:
            values.copy_(torch.randn(values.shape, generator=generator) * wanted)
    elif not is_bias and ((constant and first != 0) or (vanishing and parameter.numel() == 1)):
        # A LayerScale of 1e-6, a gain of 1 and one of 0 become gains of the order of one.
        values.copy_(_uniform(values, generator) * math.copysign(1.0, first))
    elif constant or vanishing:
        # A bias of the order of one would drown what depends on the image.
        values.copy_(torch.randn(values.shape, generator=generator) * BIAS)


def _uniform(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    low, high = SCALE
    return low + (high - low) * torch.rand(like.shape, generator=generator)
