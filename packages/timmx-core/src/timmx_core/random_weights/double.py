"""A copy of a model that computes in float64, and takes little more memory than its activations."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

T = TypeVar("T")


def in_double(model: torch.nn.Module, task: Callable[[torch.nn.Module], T]) -> T:
    """What `task` gives for a copy of a model in float64.

    Each number of threads and each processor takes sums in another order. In float64 these come to
    the same numbers in float32. A copy, since some models keep what they have computed, in the type
    that they computed it in.

    :param task: called once more, with another copy, if it ends with a RuntimeError.
    """
    try:
        return task(_sharing(model))
    except RuntimeError:  # some models look at the type of a layer's weight
        return task(copy.deepcopy(model).double())


def _sharing(model: torch.nn.Module) -> torch.nn.Module:
    """Convolutions share their weights with the model and widen them while they run."""
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
