"""Python source that prepares an image exactly as a file wants it, from its manifest alone."""

from __future__ import annotations

import math
from typing import Any

from timmx_core.models.preprocessing import settled
from timmx_core.results import Inspection

RESAMPLING = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "box": "BOX",
    "hamming": "HAMMING",
    "lanczos": "LANCZOS",
    "random": "BICUBIC",
}
MOST_SIDE = 1 << 30


def preprocessing_lines(inspection: Inspection) -> list[str]:
    """From `image.jpg` to `x`."""
    pre, spec = inspection.manifest["preprocessing"], inspection.manifest["inputs"][0]
    chans, height, width = pre["channels"], pre["height"], pre["width"]
    lines = ["import numpy as np"]
    if chans in (1, 3):
        lines.append("from PIL import Image")
    lines += ["", f"path = {str(inspection.path)!r}  # where the file is"]
    if chans not in (1, 3):
        lines.append(f"pixels = np.zeros(({height}, {width}, {chans}), np.uint8)  # your pixels")
    else:
        mode = "RGB" if chans == 3 else "L"
        lines.append(f'image = Image.open("image.jpg").convert("{mode}")  # your image')
        lines += _resize(pre, height, width)
        lines.append(f"pixels = np.asarray(image, np.uint8).reshape({height}, {width}, {chans})")
    return lines + _to_array(spec)


def _resize(pre: dict[str, Any], height: int, width: int) -> list[str]:
    """timm's evaluation: resize so that `crop_pct` of the image remains, then crop the centre."""
    interpolation, crop_pct, mode = settled(pre["interpolation"], pre["crop_pct"], pre["crop_mode"])
    filter_ = f"Image.Resampling.{RESAMPLING[interpolation]}"
    # A stranger's file may say anything, and beyond this no image can be resized.
    tall, wide = (math.floor(min(side / crop_pct, MOST_SIDE)) for side in (height, width))
    lines = [*_size_lines(mode, tall, wide), f"image = image.resize(size, {filter_})"]
    if pre["crop_pct"] is None and pre["crop_mode"] is None:
        return ["# the model does not say how its images are cropped: all of it is taken", *lines]
    if mode == "border":
        return lines + _framed_lines(pre["mean"], height, width)
    if crop_pct > 1:
        return lines + _framed_lines([0.0] * pre["channels"], height, width)
    return [
        *lines,
        f"left, top = round((size[0] - {width}) / 2), round((size[1] - {height}) / 2)",
        f"image = image.crop((left, top, left + {width}, top + {height}))",
    ]


def _size_lines(mode: str, tall: int, wide: int) -> list[str]:
    """To what size the image is resized; rounded as torchvision and timm do it, each its own way.

    :param tall: of the whole that the model's image is cut out of; `wide` as well.
    """
    if mode == "squash":
        return [f"size = {wide}, {tall}"]
    if mode == "center" and tall == wide:
        return [
            "short = min(image.size)",
            f"size = [int({tall} * side / short) for side in image.size]",
        ]
    which = "max" if mode == "border" else "min"
    return [
        f"ratio = {which}(image.width / {wide}, image.height / {tall})",
        "size = round(image.width / ratio), round(image.height / ratio)",
    ]


def _framed_lines(mean: list[float], height: int, width: int) -> list[str]:
    """The centre, with a border where the image is smaller."""
    values = [round(255 * min(max(value, 0), 1)) for value in mean]
    color = values[0] if len(values) == 1 else tuple(values)
    return [
        f"frame = Image.new(image.mode, ({width}, {height}), {color})",
        f"spare = {width} - size[0], {height} - size[1]",
        "frame.paste(image, tuple(s // 2 if s > 0 else -round(-s / 2) for s in spare))",
        "image = frame",
    ]


def _to_array(spec: dict[str, Any]) -> list[str]:
    lines = []
    if spec.get("color") == "BGR":
        lines.append("pixels = pixels[..., ::-1]")
    if spec["dtype"] == "uint8" and not spec.get("quantization"):
        lines.append("x = pixels")
    else:
        divide = "" if spec.get("range") == [0.0, 255.0] else " / np.float32(255)"
        lines.append(f"x = pixels.astype(np.float32){divide}")
        if spec.get("mean"):
            lines.append(f"mean = np.array({spec['mean']}, np.float32)")
            lines.append(f"std = np.array({spec['std']}, np.float32)")
            lines.append("x = (x - mean) / std")
        if spec.get("quantization"):
            scale, zero = spec["quantization"]
            lines.append(f"x = np.round(x / np.float32({scale!r})) + {zero}")
            lines.append(
                f"info = np.iinfo(np.{spec['dtype']}); "
                f"x = np.clip(x, info.min, info.max).astype(np.{spec['dtype']})"
            )
    if spec["layout"] == "NCHW":
        lines.append("x = x.transpose(2, 0, 1)")
    batch = spec["shape"][0]
    least = batch if isinstance(batch, int) else batch[0]
    lines.append(f"x = np.ascontiguousarray(np.stack([x] * {least}))")
    return lines


def result_lines(inspection: Inspection) -> list[str]:
    """From `outputs` to something to look at."""
    output = inspection.manifest["outputs"][0]
    if output["role"] not in ("logits", "probabilities"):
        names = [o["name"] for o in inspection.manifest["outputs"]]
        return [
            f"for name, array in zip({names!r}, outputs):",
            "    print(name, array.shape)",
        ]
    lines = ["best = np.argsort(-outputs[0][0])[:5]"]
    if inspection.manifest.get("labels"):
        lines += [
            *_labels_lines(inspection.manifest["labels"]),
            "print([(labels[i], float(outputs[0][0][i])) for i in best])",
        ]
    else:
        lines.append("print([(int(i), float(outputs[0][0][i])) for i in best])")
    return lines


def _labels_lines(labels: list[str]) -> list[str]:
    """A list in the source, so that the file needs nothing beside it."""
    return ["labels = [", *(f"    {label!r}," for label in labels), "]"]
