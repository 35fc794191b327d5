"""The one module that bakes an input contract into a model. Imports torch."""

# No `from __future__ import annotations`: TorchScript reads annotations, and not as strings.
from typing import Any

import torch

from timmx_core.backend import Transform
from timmx_core.models.outputs import tensors_of


class InputContract(torch.nn.Module):
    """`model` with what stands before and after it in the file.

    Takes one image batch, float32 or uint8, (N, C, H, W) or (N, H, W, C), and gives a tensor or a
    tuple of tensors. It is written so that TorchScript can script it, too.
    """

    # TorchScript leaves out the branches that these rule out; a list takes no softmax.
    __constants__ = (
        "chooses",
        "flattens",
        "nhwc",
        "normalize",
        "reorders",
        "softmax",
        "uint8",
    )

    scale: torch.Tensor
    shift: torch.Tensor
    order: list[int]

    def __init__(
        self,
        model: torch.nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        transforms: frozenset[Transform],
        order: tuple[int, ...] = (),
        softmax_of: int | None = None,
        flattens: bool = False,
    ) -> None:
        """Make the wrapper.

        :param order: where each output of the file stands in the model's own list; empty: as it
            comes.
        :param softmax_of: of several outputs, the one that is logits.
        :param flattens: the model gives a mapping, or sequences within another, which become one
            tuple; tracers take no more.
        """
        super().__init__()
        self.model = model
        self.nhwc = "nhwc" in transforms
        self.uint8 = "uint8" in transforms
        self.normalize = "normalize" in transforms
        self.softmax = "softmax" in transforms
        self.order = list(order)
        self.reorders = self.order != sorted(self.order)
        self.chosen = -1 if softmax_of is None else softmax_of
        self.chooses = softmax_of is not None
        self.flattens = flattens
        # One multiplication and one addition; of pixels in [0, 255] where they come as uint8.
        full = 255.0 if self.uint8 else 1.0
        scale = torch.tensor([1.0 / (full * s) for s in std], dtype=torch.float64)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> Any:
        """(N, C, H, W) or (N, H, W, C) to what the model gives for the normalised image."""
        if self.nhwc:
            image = image.permute(0, 3, 1, 2)
        if self.uint8:
            image = image.to(self.scale.dtype)
        if self.normalize:
            image = image * self.scale + self.shift
        result = self.model(image)
        if self.flattens and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            result = _flat(result)
        if self.reorders:
            result = [result[index] for index in self.order]
        if self.softmax:
            if self.chooses:
                result = _with_softmax(result, self.chosen)
            else:
                result = torch.softmax(result, dim=-1)
        return result


def _with_softmax(result: Any, chosen: int) -> Any:
    """Of several outputs one as probabilities; a tuple of all of them."""
    tensors = tensors_of(result)
    tensors[chosen] = torch.softmax(tensors[chosen], dim=-1)
    return tuple(tensors)


def _flat(result: Any) -> Any:
    """All tensors of a result, in one tuple; a tensor where it is the only one."""
    tensors = tensors_of(result)
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
