"""How far rounding takes an answer, and a mend for random weights that let it go too far.

Each norm with statistics behind an activation multiplies relative noise in power by
E[f'(z)^2] Var(z) / Var(f(z)). With the mean of z at 0 that is 1.47 for ReLU, whatever the weights
are; with the mean at one deviation it is 1.12. See Yang et al., "A Mean Field Theory of Batch
Normalization", https://arxiv.org/abs/1902.08129. Over the 66 norms of `convmixer_768_32` it comes
to 80 dB, and PyTorch's own answers in float32 are then 50 dB from those in float64. So what comes
before an activation gets a mean of its own, where random weights need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from timmx_core.random_weights.double import in_double
from timmx_core.random_weights.norm_statistics import (
    averaging,
    norms_with_statistics,
    set_statistics,
)
from timmx_core.verification.measure import CAP_DB, decibels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

LEAST_DB = 90.0  # in float32; the floor of fp32 is 80, and a runtime adds in another order
MEANS = (1.0, 2.0)
IMAGES = 4
ROUNDING = 2.0**-24  # of float32, at most, relative to what is rounded


def steady(model: torch.nn.Module, images: torch.Tensor, means: Sequence[float] = MEANS) -> None:
    """Keep answers in float32 at `LEAST_DB` of those in float64, as far as biases can.

    :param model: in eval mode, with statistics that are set; changed in place where it must be.
    :param images: normalised, (N, C, H, W), float32.
    :param means: of what comes before an activation, in its deviations; tried in turn.
    """
    for mean in means:
        if rounded_db(model, images) >= LEAST_DB:
            return
        lift(model, images, mean)
        set_statistics(model, images)


def rounded_db(model: torch.nn.Module, images: torch.Tensor) -> float:
    """How far answers are from exact ones if every layer rounds to float32, of several the worst.

    It is computed in float64 with errors drawn from a seed, and so it is the same everywhere. What
    float32 really gives differs from processor to processor, and random weights must not.

    :param model: in eval mode; it is not changed.
    :param images: normalised, (N, C, H, W); the first few are taken.
    """
    return in_double(model, lambda double: _rounded_db(double, images[:IMAGES].double()))


def _rounded_db(double: torch.nn.Module, images: torch.Tensor) -> float:
    """Of a batch that holds each image twice, and the second time with errors."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def rounding(_: torch.nn.Module, __: object, output: object) -> object:
        if not isinstance(output, torch.Tensor) or len(output) != 2 * len(images):
            return output
        exact, rounded = output.tensor_split(2)
        errors = torch.rand(exact.shape, generator=generator, dtype=exact.dtype) * 2 - 1
        return torch.cat([exact, rounded * (1 + errors * ROUNDING)])

    for layer in double.modules():
        if not any(layer.children()):
            layer.register_forward_hook(rounding)
    with torch.no_grad():
        result = double(torch.cat([images, images]))
    answers = [output.tensor_split(2) for output in _floats(result) if len(output) % 2 == 0]
    # What is the same for each image says nothing, and is told elsewhere.
    telling = (pair for pair in answers if not bool((pair[0] == pair[0][:1]).all()))
    return min((_snr(*pair) for pair in telling), default=CAP_DB)


def _floats(result: object) -> Iterator[torch.Tensor]:
    """The tensors of real numbers in what a model gives, which may be anything yet."""
    import torch

    if isinstance(result, torch.Tensor):
        if result.is_floating_point() and result.ndim and result.numel():
            yield result
    elif isinstance(result, (Mapping, list, tuple)):
        for value in result.values() if isinstance(result, Mapping) else result:
            yield from _floats(value)


def _snr(want: torch.Tensor, got: torch.Tensor) -> float:
    signal = float(((want - want.mean(0)) ** 2).mean())
    return decibels(signal, float(((got - want) ** 2).mean()))


def lift(model: torch.nn.Module, images: torch.Tensor, mean: float) -> None:
    """Give what convolutions and batch norms put out a mean, in each channel, by their biases.

    The statistics of the norms are to be set again after that.

    :param mean: in deviations of the channel.
    """
    biases = in_double(model, lambda double: _lifted(double, images[:IMAGES].double(), mean))
    for name, bias in biases.items():
        model.get_parameter(f"{name}.bias").data.copy_(bias)


def _lifted(double: torch.nn.Module, images: torch.Tensor, mean: float) -> dict[str, torch.Tensor]:
    """The biases, of one layer after the other: each sees what those before it now give."""
    import torch

    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.modules.batchnorm._BatchNorm)
    biases: dict[str, torch.Tensor] = {}

    def lifting(name: str) -> Callable[..., torch.Tensor]:
        def hook(layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
            dims = [dim for dim in range(output.ndim) if dim != 1]
            missing = mean * output.std(dims) - output.mean(dims)
            assert isinstance(layer.bias, torch.Tensor)
            biases[name] = layer.bias + missing
            return output + missing.view(-1, *[1] * (output.ndim - 2))

        return hook

    for name, layer in double.named_modules():
        if isinstance(layer, kinds) and layer.bias is not None:
            layer.register_forward_hook(lifting(name))
    with torch.no_grad(), averaging(norms_with_statistics(double)):
        double(images)
    return biases
