"""Real weights, photographs from JPEG, labels: what an app would get."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import timmx_core
from timmx_core.labels import imagenet_labels
from timmx_coreml.labels import unique_labels
from timmx_coreml.mil import load

if TYPE_CHECKING:
    import testdata

pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="tests of the interpreter")
AGREE = {"fp16": 20, "fp32": 20, "int8": 19, "palette6": 18, "palette4": 0, "int4": 0}


@pytest.fixture(scope="module")
def pictures(lite0_dir: Path, photographs: list[testdata.Photograph]) -> tuple[Any, list[int]]:
    """Pixels (20, H, W, 3) as timm crops them, and the classes that PyTorch sees in them."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.transforms import Compose

    model = timm.create_model(f"local-dir:{lite0_dir}", pretrained=True).eval()
    config = resolve_model_data_config(model)
    steps = create_transform(**config).transforms
    crop = Compose([s for s in steps if type(s).__name__ in ("Resize", "CenterCrop")])
    rest = Compose([s for s in steps if type(s).__name__ not in ("Resize", "CenterCrop")])
    images = [crop(Image.open(p.path).convert("RGB")) for p in photographs]
    with torch.no_grad():
        classes = [int(model(rest(image)[None]).argmax()) for image in images]
    return np.stack([np.asarray(image) for image in images]), classes


@pytest.mark.parametrize("precision", AGREE)
def test_the_label_of_every_photograph(
    precision: str,
    lite0_dir: Path,
    pictures: tuple[np.ndarray, list[int]],
    tmp_path: Path,
) -> None:
    result = timmx_core.export(
        "coreml",
        f"local-dir:{lite0_dir}",
        pretrained=True,
        precision=precision,
        image_input=True,
        labels="imagenet-1k",
        softmax=True,
        output=str(tmp_path / "lite0.mlpackage"),
    )
    assert result.verdict.status == "verified"
    assert result.path is not None
    program = load(result.path)
    pixels, wanted = pictures
    names = unique_labels(imagenet_labels())
    given = [program.run({"input": image})["classLabel"] for image in pixels]
    agreed = sum(label == names[want] for label, want in zip(given, wanted, strict=True))
    print(f"{precision}: {agreed} of 20, {result.size} bytes")
    assert agreed >= AGREE[precision]
