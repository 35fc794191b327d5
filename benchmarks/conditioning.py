"""See how far PyTorch's float32 is from its float64, of random weights, and keep it as JSON.

    python benchmarks/conditioning.py             # the smallest of each family
    python benchmarks/conditioning.py resnet18

For each architecture: what rounding is expected to leave, with the weights as drawn and as
`make_informative` leaves them; and how far the answers of float32 are from those of float64, as
they are and with each batch norm folded into the convolution before it, as converters do. Finished
models are kept.
"""

from __future__ import annotations

import collections
import copy
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
from family_rows import families, images_for, rate_missing  # type: ignore[import-not-found]
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from timmx_core.models.outputs import tensors_of
from timmx_core.random_weights.conditioning import LEAST_DB, rounded_db
from timmx_core.random_weights.informative import make_informative
from timmx_core.toolkit.comparison import distance_db

IMAGES = 4


def pairs(model: nn.Module, images: torch.Tensor) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution and the batch norm that alone is given what it puts out."""
    makers: dict[Any, nn.Conv2d] = {}  # by the node of autograd's graph
    found: list[tuple[Any, nn.BatchNorm2d]] = []

    def convolved(layer: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        makers[output.grad_fn] = layer

    def normalised(layer: nn.BatchNorm2d, given: Any) -> None:
        if given[0].grad_fn in makers:
            found.append((given[0].grad_fn, layer))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and type(module).__name__ in ("Conv2d", "Conv2dSame"):
            hooks.append(module.register_forward_hook(convolved))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(normalised))
    outputs = tensors_of(model(images[:1]))
    for hook in hooks:
        hook.remove()
    readers = _readers(outputs)
    layers = list(makers.values())
    return (
        (makers[node], norm)
        for node, norm in found
        if readers[node] == 1 and layers.count(makers[node]) == 1
    )


def _readers(outputs: list[torch.Tensor]) -> collections.Counter[Any]:
    """How many nodes of autograd's graph are given what a node puts out."""
    count: collections.Counter[Any] = collections.Counter()
    seen = set()
    left = [output.grad_fn for output in outputs]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        given = [source for source, _ in node.next_functions]
        count.update(given)
        left.extend(given)
    return count


def folded(model: nn.Module, images: torch.Tensor) -> tuple[nn.Module, int]:
    """A copy with batch norms in the convolutions before them, and of how many."""
    made = copy.deepcopy(model)
    count = 0
    for conv, norm in pairs(made, images):
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        norm.reset_running_stats()
        norm.reset_parameters()
        norm.eps = 0.0
        count += 1
    return made, count


def answers(model: nn.Module, images: torch.Tensor) -> list[Any]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in tensors_of(model(images))]


def rate(name: str) -> dict[str, Any]:
    """One architecture."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = images_for(model)
    drawn = copy.deepcopy(model)
    make_informative(drawn, images, 0, means=())
    row: dict[str, Any] = {"drawn_db": rounded_db(drawn, images)}
    if row["drawn_db"] < LEAST_DB:
        make_informative(model, images, 0)
    else:
        model = drawn
    row["expected_db"] = rounded_db(model, images)
    few = images[:IMAGES]
    want = answers(copy.deepcopy(model).double(), few.double())
    row["float32_db"] = distance_db(want, answers(model, few))
    bare, row["folded_norms"] = folded(model, images)
    row["folded_db"] = distance_db(want, answers(bare, few))
    return {key: round(value, 1) for key, value in row.items()}


def main() -> None:
    """Rate what is missing."""
    # A RuntimeError is that of a model that looks at the type of its weights.
    about = __doc__.splitlines()[0]
    rate_missing("conditioning", about, families(), rate, (RuntimeError,), lambda row: row)


if __name__ == "__main__":
    main()
