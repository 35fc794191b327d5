"""The running means and variances of batch norms, set from images."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from timmx_core.random_weights.double import in_double

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

LEAST_VARIANCE = 0.01  # of the average over channels


def norms_with_statistics(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The batch norms of a model that hold a running mean and variance."""
    import torch

    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    return [
        m
        for m in model.modules()
        if isinstance(m, batch_norm) and isinstance(m.running_mean, torch.Tensor)
    ]


def set_statistics(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Those of the activations, of a copy in float64, over all images.

    :param pixels: normalised images (N, C, H, W), float32.
    """
    import torch

    def statistics(double: torch.nn.Module) -> list[torch.nn.Module]:
        norms = norms_with_statistics(double)
        with torch.no_grad(), averaging(norms):
            double(pixels.double())
        return norms

    made = in_double(model, statistics)
    with torch.no_grad():
        for norm, source in zip(norms_with_statistics(model), made, strict=True):
            _bound_variance(source)
            norm.load_state_dict(source.state_dict())


def _bound_variance(norm: torch.nn.Module) -> None:
    """A channel that hardly varied would be blown up, and its rounding errors with it."""
    import torch

    variance = norm.running_var
    assert isinstance(variance, torch.Tensor)
    variance.clamp_(min=float(variance.mean()) * LEAST_VARIANCE)


@contextmanager
def averaging(norms: list[torch.nn.Module]) -> Iterator[None]:
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
