"""The Python that prepares an image does it as timm's own evaluation does, to the pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from timmx_core.files.snippets import preprocessing_lines
from timmx_core.lifecycle.reference import eval_crop
from timmx_core.models.build import Preprocessing
from timmx_core.results import Inspection

SIZES = [(32, 32), (33, 33), (48, 32), (31, 45)]  # of the model: height, width
PICTURES = [(40, 40), (53, 37), (37, 54), (91, 30), (21, 22)]  # width, height
CROPS = [0.8, 0.875, 0.9, 0.95, 1.0, 1.25]


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Noise, so that a shift by one pixel shows everywhere."""
    random = np.random.default_rng(sum(size))
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(random.integers(0, 256, shape, np.uint8), mode)


def prepared(preprocessing: Preprocessing) -> np.ndarray:
    """What the lines make of image.jpg in the working folder."""
    chans, height, width = preprocessing.input_size
    port: dict[str, Any] = {"dtype": "uint8", "layout": "NHWC", "shape": [1, height, width, chans]}
    names = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
    said = {"channels": chans, "height": height, "width": width} | {
        name: getattr(preprocessing, name) for name in names
    }
    file = Inspection(Path("x"), "x", True, {"preprocessing": said, "inputs": [port]}, None, None)
    defined: dict[str, Any] = {}
    exec("\n".join(preprocessing_lines(file)), defined)
    array: np.ndarray = defined["x"][0]
    return array


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("color", ["RGB", "L"])
def test_images_are_prepared_as_timm_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, color: str
) -> None:
    monkeypatch.chdir(tmp_path)
    chans = len(color) if color == "RGB" else 1
    mean, std = (0.485, 0.456, 0.406)[:chans], (0.2,) * chans
    wrong = []
    for size in PICTURES:
        image = picture(size, color)
        image.save("image.jpg", "png")
        for wanted in SIZES:
            for crop in CROPS:
                pre = Preprocessing((chans, *wanted), mean, std, "bilinear", crop, mode)
                expected = np.asarray(eval_crop(pre)(image), np.uint8).reshape(*wanted, chans)
                if not np.array_equal(prepared(pre), expected):
                    wrong.append((size, wanted, crop))
    assert not wrong


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic", "box", "hamming", "lanczos"])
def test_images_are_resampled_as_timm_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpolation: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image = picture((53, 37), "RGB")
    image.save("image.jpg", "png")
    pre = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, interpolation, 0.9, "center")
    assert np.array_equal(prepared(pre), np.asarray(eval_crop(pre)(image), np.uint8))
