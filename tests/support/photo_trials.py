"""From the JPEG to the class, by a finished file and by timm itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from testdata import Photograph

import timmx_core


def calibration_folder(folder: Path, photographs: Sequence[Photograph]) -> str:
    """Some of the photographs by themselves, for `--calibration-data`."""
    calibration = folder / "calibration"
    calibration.mkdir()
    for photograph in photographs:
        (calibration / photograph.path.name).symlink_to(photograph.path)
    return str(calibration)


def classes_of_file(path: Path, photographs: Sequence[Photograph]) -> list[int]:
    """What the lines of `timmx inspect --snippet python` make of each photograph."""
    return [int(np.argmax(outputs[0])) for outputs in outputs_of_file(path, photographs)]


def outputs_of_file(path: Path, photographs: Sequence[Photograph]) -> Iterator[list[np.ndarray]]:
    """All that they give for each, in the manifest's order."""
    code = timmx_core.snippet(timmx_core.inspect(path))
    for photograph in photographs:
        scope: dict[str, Any] = {}
        exec(code.replace("image.jpg", str(photograph.path)), scope)
        yield scope["outputs"]


def classes_of_timm(folder: Path, photographs: Sequence[Photograph]) -> list[int]:
    """What timm's model makes of each photograph, with timm's own transform."""
    import timm
    import torch
    from PIL import Image

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = [transform(Image.open(p.path).convert("RGB")) for p in photographs]
    with torch.no_grad():
        return [int(i) for i in model(torch.stack(images)).argmax(1)]
