"""Python source that prepares an image exactly as a file wants it, from its manifest alone."""

from __future__ import annotations

from typing import Any

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
    filter_ = f"Image.Resampling.{RESAMPLING[pre['interpolation']]}"
    tall, wide = int(height / pre["crop_pct"]), int(width / pre["crop_pct"])
    if pre["crop_mode"] == "squash":
        return [
            f"image = image.resize(({wide}, {tall}), {filter_})",
            f"left, top = ({wide} - {width} + 1) // 2, ({tall} - {height} + 1) // 2",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    if pre["crop_mode"] == "border":
        fit = f"min({wide} / image.width, {tall} / image.height)"
    else:
        fit = f"max({wide} / image.width, {tall} / image.height)"
    return [
        f"scale = {fit}",
        "size = round(image.width * scale), round(image.height * scale)",
        f"image = image.resize(size, {filter_})",
        f"left, top = round((size[0] - {width}) / 2), round((size[1] - {height}) / 2)",
        f"image = image.crop((left, top, left + {width}, top + {height}))",
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
