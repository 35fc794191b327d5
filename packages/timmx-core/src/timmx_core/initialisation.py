"""Random weights that make a meaningful test.

timm's initial weights hide much of a model: last norms at zero and LayerScales at 1e-6 switch
whole branches off, zero heads give zeros, and batch-norm statistics that fit no data make many
models ignore their input. A converter could drop such a branch and nobody would see it. So
weights that timmx made itself (never a user's) are made informative first.
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

SCALE = (0.5, 1.5)  # range of gains that were constant
BIAS = 0.1  # standard deviation of biases that were constant
# A weight whose deviation is below this part of 1/sqrt(fan-in) passes next to nothing on.
FAINT = 0.1
# A vector below it throughout does nothing beside activations of the order of one.
VANISHING = 1e-3
# Of the average over channels.
LEAST_VARIANCE = 0.01


def make_informative(model: torch.nn.Module, pixels: torch.Tensor, seed: int) -> None:
    """Give constant and vanishing parameters plausible values, then set batch-norm statistics.

    Which parameters are touched follows from their values alone: one whose elements are all
    equal, or nearly zero against its fan-in, carries no information.

    :param model: in eval mode; changed in place, and left in eval mode.
    :param pixels: normalised images (N, C, H, W), float32.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _enliven(parameter, "bias" in name.rpartition(".")[2], generator)
    if _norms_with_statistics(model):
        _set_statistics(model, pixels)


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


def _norms_with_statistics(model: torch.nn.Module) -> list[torch.nn.Module]:
    import torch

    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    return [
        m
        for m in model.modules()
        if isinstance(m, batch_norm) and isinstance(m.running_mean, torch.Tensor)
    ]


def _set_statistics(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Of the activations of a copy in float64.

    Each number of threads and each processor takes their sums in another order. In float64 these
    come to the same statistics in float32, and so to the same file. A copy, since some models keep
    what they have computed, in the type that they computed it in.
    """
    import torch

    with torch.no_grad():
        double = _double(model)
        norms = _norms_with_statistics(double)
        try:
            _run(double, norms, pixels)
        except RuntimeError:  # some models look at the type of a layer's weight
            double = copy.deepcopy(model).double()
            norms = _norms_with_statistics(double)
            _run(double, norms, pixels)
        for norm, source in zip(_norms_with_statistics(model), norms, strict=True):
            _bound_variance(source)
            norm.load_state_dict(source.state_dict())


def _run(double: torch.nn.Module, norms: list[torch.nn.Module], pixels: torch.Tensor) -> None:
    with _only_training(norms):
        double(pixels.double())


def _double(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that computes in float64, and takes little more memory than its activations.

    Convolutions share their weights with the model and widen them while they run.
    """
    import torch

    kind = torch.nn.modules.conv._ConvNd
    shared = {id(p): p for m in model.modules() if isinstance(m, kind) for p in m.parameters()}
    double = copy.deepcopy(model, dict(shared))
    for module in double.modules():
        if isinstance(module, kind):
            module.forward = _widening(module)
        else:
            module._apply(_widened, recurse=False)  # type: ignore[no-untyped-call]
    return double


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _widening(layer: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A convolution in float64, one image at a time: torch would unfold all of them at once."""
    plain: Callable[[torch.Tensor], torch.Tensor] = layer.forward
    narrow: dict[str, Any] = dict(layer._parameters)

    def forward(images: torch.Tensor) -> torch.Tensor:
        wide: Any = {name: p if p is None else _widened(p) for name, p in narrow.items()}
        layer._parameters.update(wide)
        try:
            first = plain(images[:1])
            results = first.new_empty(len(images), *first.shape[1:])
            results[:1] = first
            for index in range(1, len(images)):
                results[index] = plain(images[index : index + 1])[0]
        finally:
            layer._parameters.update(narrow)
        return results

    return forward


def _bound_variance(norm: torch.nn.Module) -> None:
    """A channel that hardly varied would be blown up, and its rounding errors with it."""
    import torch

    variance = norm.running_var
    assert isinstance(variance, torch.Tensor)
    variance.clamp_(min=float(variance.mean()) * LEAST_VARIANCE)


@contextmanager
def _only_training(norms: list[torch.nn.Module]) -> Iterator[None]:
    """Batch norms alone in train mode, averaging from scratch: dropout and drop path stay off."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
