"""The weights and photographs that other tests rely on are what they are said to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from testdata import Photograph


def test_lite0_knows_18_of_the_20_photographs(
    lite0_dir: Path, photographs: list[Photograph]
) -> None:
    model = timm.create_model(f"local-dir:{lite0_dir}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    batch = torch.stack([transform(Image.open(p.path).convert("RGB")) for p in photographs])
    with torch.inference_mode():
        top1 = model(batch).argmax(dim=1).tolist()

    right = sum(got == photo.label for got, photo in zip(top1, photographs, strict=True))
    assert right == 18
