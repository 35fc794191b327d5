"""The input contract: what the file takes, and the one wrapper that bakes it in.

Pixels are the common ground. The reference path normalises them as timm does and runs the
untouched model; the file's path hands them over in whatever form the file asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Batch, Dimension, TensorSpec, Transform
from timmx_core.models.build import BuiltModel
from timmx_core.models.outputs import require_classes
from timmx_core.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import torch


def asked_transforms(shared: Mapping[str, Any]) -> frozenset[Transform]:
    """The transforms that the file is to do by itself, whoever puts them in."""
    asked: dict[Transform, str] = {
        "nhwc": "nhwc_input",
        "uint8": "uint8_input",
        "normalize": "normalize",
        "softmax": "softmax",
    }
    return frozenset(transform for transform, name in asked.items() if shared[name])


def batch_dimension(batch: Batch) -> Dimension:
    """N of a `TensorSpec`: an int where it is static."""
    return batch[0] if batch[0] == batch[2] else batch


def input_spec(
    preprocessing: Preprocessing, batch: Batch, transforms: frozenset[Transform]
) -> TensorSpec:
    """The image port of a module that does `transforms` by itself."""
    chans, height, width = preprocessing.input_size
    n = batch_dimension(batch)
    nhwc = "nhwc" in transforms
    baked = "normalize" in transforms
    return TensorSpec(
        name="input",
        shape=(n, height, width, chans) if nhwc else (n, chans, height, width),
        dtype="uint8" if "uint8" in transforms else "float32",
        role="image",
        layout="NHWC" if nhwc else "NCHW",
        color={3: "RGB", 1: "GRAY"}.get(chans),  # type: ignore[arg-type]
        range=(0.0, 255.0) if "uint8" in transforms else (0.0, 1.0),
        mean=() if baked else preprocessing.mean,
        std=() if baked else preprocessing.std,
    )


def pixels_to_input(pixels: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Pixels (N, H, W, C) uint8 in the form that an image port asks for.

    :return: an array of `spec.dtype` in `spec.layout`.
    """
    import numpy as np

    array: np.ndarray = pixels
    if spec.color == "BGR":
        array = array[..., ::-1]
    raw = spec.range == (0.0, 255.0) and not spec.mean
    if spec.quantization is not None or not (raw and spec.dtype == "uint8"):
        # float32 throughout, as timm's own transform does it.
        array = array.astype(np.float32)
        if spec.range != (0.0, 255.0):
            array = array / np.float32(255)
        if spec.mean:
            mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
            # PyTorch divides by what is zero in float32 without a word, too.
            with np.errstate(divide="ignore", invalid="ignore"):
                array = (array - mean) / std
    if spec.quantization is not None:
        scale, zero = spec.quantization
        info = np.iinfo(spec.dtype)
        array = np.clip(np.round(array / np.float32(scale)) + zero, info.min, info.max)
    if spec.layout == "NCHW":
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array.astype(spec.dtype, copy=False))


def reference_input(pixels: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """Pixels (N, H, W, C) uint8 as timm's transform gives them: (N, C, H, W) float32."""
    import torch

    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(255)
    mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)
    return tensor.sub(mean).div(std)


def wrap(built: BuiltModel, transforms: frozenset[Transform]) -> torch.nn.Module:
    """The module with its input contract around it; every format gets this same wrapper."""
    from timmx_core.models.wrapper import InputContract

    pre = built.preprocessing
    chosen = None
    if "softmax" in transforms and built.several:
        chosen = require_classes(built, "--softmax")
    return InputContract(
        built.module,
        pre.mean,
        pre.std,
        transforms,
        order=built.order,
        softmax_of=chosen,
        flattens=built.nested,
    ).eval()
