"""The module around a model whose file takes images."""

from __future__ import annotations

import torch

from timmx_core.backend import TensorSpec


class PixelInput(torch.nn.Module):
    """`module` for pixels 0..255 as Core ML hands them over: (1, C, H, W) floats.

    Scale and bias are exact for every channel, which the one scale of a Core ML image port is
    not: it is left at 1.
    """

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, module: torch.nn.Module, spec: TensorSpec) -> None:
        """Wrap.

        :param spec: of the module's own input; its mean and std are still to be applied.
        """
        super().__init__()
        self.module = module
        channels = spec.shape[1]
        assert isinstance(channels, int)
        mean, std = spec.mean or (0.0,) * channels, spec.std or (1.0,) * channels
        scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float64)
        bias = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("bias", bias.float().view(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pixels to what the module gives."""
        result: torch.Tensor = self.module(image * self.scale + self.bias)
        return result


def image_spec(spec: TensorSpec) -> TensorSpec:
    """The port of the file: pixels as they are."""
    channels, height, width = spec.shape[1:]
    return TensorSpec(
        name=spec.name,
        shape=(1, height, width, channels),
        dtype="uint8",
        role="image",
        layout="NHWC",
        color="GRAY" if channels == 1 else "RGB",
        range=(0.0, 255.0),
    )
