"""The one module that bakes an input contract into a model. Imports torch."""

# No `from __future__ import annotations`: TorchScript reads annotations, and not as strings.
from typing import Any

import torch

from timmx_core.backend import Transform


class InputContract(torch.nn.Module):
    """`model` with what stands before and after it in the file.

    Takes one image batch, float32 or uint8, (N, C, H, W) or (N, H, W, C), and gives a tensor or a
    tuple of tensors. It is written so that TorchScript can script it, too.
    """

    # TorchScript leaves out the branches that these rule out; a list takes no softmax.
    __constants__ = ("nhwc", "normalize", "softmax", "uint8")

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        model: torch.nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        transforms: frozenset[Transform],
    ) -> None:
        super().__init__()
        self.model = model
        self.nhwc = "nhwc" in transforms
        self.uint8 = "uint8" in transforms
        self.normalize = "normalize" in transforms
        self.softmax = "softmax" in transforms
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
        if self.softmax:
            result = torch.softmax(result, dim=-1)
        return result
