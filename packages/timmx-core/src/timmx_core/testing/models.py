"""Models that export in a fraction of a second and still have what converters get wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from timmx_core.random_weights.informative import make_informative
from timmx_core.verification.probes import Recipe, make

INPUT_SIZE = (3, 32, 32)
CLASSES = 10
# A timm model of 62,000 parameters, for what timm itself does (feature maps).
TIMM_NAME = "test_resnet"


class Block(nn.Module):
    """Two convolutions with batch norm, and the residual around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W) to the same shape."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


class Trunk(nn.Module):
    """A strided stem and one block."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.block = Block(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, width, H/2, W/2)."""
        block: torch.Tensor = self.block(torch.relu(self.norm(self.stem(x))))
        return block


class TinyCNN(nn.Module):
    """A classifier with batch norm and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) to (N, 10)."""
        logits: torch.Tensor = self.head(self.trunk(x).mean((2, 3)))
        return logits


class TwoOutputs(nn.Module):
    """Logits and a feature map, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, 32, 32) to (N, 10) and (N, 8, 16, 16)."""
        features = self.trunk(x)
        return self.head(features.mean((2, 3))), features


class WrongLater(nn.Module):
    """A model whose answers are right for the first images of a batch alone."""

    def __init__(self, model: nn.Module, right: int, batch: int) -> None:
        super().__init__()
        self.model = model
        factor = torch.ones(batch, 1)
        factor[right:] = 3.0
        self.register_buffer("factor", factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) to (N, 10), N at most the batch that it is made for."""
        # TorchScript takes no annotation of a buffer that stands as text.
        logits: torch.Tensor = self.model(x) * self.factor[: x.shape[0]]  # type: ignore[index]
        return logits


def tiny_cnn(seed: int = 0) -> nn.Module:
    """A classifier of 1,700 parameters with batch norm and a residual.

    .. versionadded:: 0.1
    """
    return _finished(TinyCNN, seed)


def nearly(model: nn.Module) -> nn.Module:
    """The same model with the weights of its last layer 2 % greater."""
    *_, layer = (m for m in model.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.mul_(1.02)
    return model


def tiny_vit(seed: int = 0) -> nn.Module:
    """timm's VisionTransformer, 2 blocks of width 32 on 16 patches.

    .. versionadded:: 0.1
    """
    from timm.models import VisionTransformer

    return _finished(
        lambda: VisionTransformer(
            img_size=INPUT_SIZE[1],
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            num_classes=CLASSES,
            # Averaged, since the class token of so shallow a model hardly sees the image.
            global_pool="avg",
        ),
        seed,
    )


def two_outputs(seed: int = 0) -> nn.Module:
    """A model that gives logits and a feature map.

    .. versionadded:: 0.1
    """
    return _finished(TwoOutputs, seed)


def _finished(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """In eval mode, with weights and statistics that let every layer show in the output."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_model().eval()
    chans, height, width = INPUT_SIZE
    pixels = torch.from_numpy(make(Recipe(height, width, chans))).permute(0, 3, 1, 2) / 255
    make_informative(model, pixels, seed)
    return model
