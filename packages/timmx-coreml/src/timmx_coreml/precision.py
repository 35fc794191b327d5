"""fp16 where it is enough, fp32 where it is not.

Most models lose nothing that matters in fp16. Some do: a sum over many positions overflows, or a
small variance underflows. Those operations are kept in fp32, in widening circles, until the saved
program does what PyTorch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx_core.backend import TensorSpec

if TYPE_CHECKING:
    import torch

_SUMS = (
    "batch_norm",
    "cumsum",
    "exp",
    "instance_norm",
    "inverse",
    "l2_norm",
    "layer_norm",
    "log",
    "pow",
    "real_div",
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_log_sum_exp",
    "reduce_mean",
    "reduce_sum",
    "reduce_sum_square",
    "rsqrt",
    "softmax",
    "sqrt",
    "square",
)
_PRODUCTS = ("einsum", "matmul", "scaled_dot_product_attention")
_ELEMENTS = (
    *("add", "mul", "sub", "maximum", "minimum", "concat", "avg_pool", "max_pool"),
    *("clip", "elu", "erf", "gelu", "leaky_relu", "prelu", "relu", "relu6", "sigmoid"),
    *("sigmoid_hard", "silu", "softplus", "tanh", "thresholded_relu"),
)
_LAYERS = ("conv", "conv_transpose", "linear")
CIRCLES: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset(_SUMS),
    frozenset(_SUMS + _PRODUCTS),
    frozenset(_SUMS + _PRODUCTS + _ELEMENTS),
    frozenset(_SUMS + _PRODUCTS + _ELEMENTS + _LAYERS),
)
"""Kinds of operation that are kept in fp32, tried in turn."""


def compute_precision(precision: str, kept: frozenset[str]) -> Any:
    """The converter's word for it."""
    import coremltools as ct

    if precision == "fp32":
        return ct.precision.FLOAT32
    if not kept:
        return ct.precision.FLOAT16
    return ct.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type not in kept)


def sample(spec: TensorSpec) -> np.ndarray:
    """Three of the images that a file is verified with, as the module takes them."""
    from timmx_core.toolkit.model import Recipe, make, pixels_to_input

    shape = [d if isinstance(d, int) else d[1] for d in spec.shape]
    height, width, channels = shape[1:] if spec.layout == "NHWC" else (*shape[2:], shape[1])
    return pixels_to_input(make(Recipe(height, width, channels))[1:4], spec)


def reference(module: torch.nn.Module, images: np.ndarray) -> list[np.ndarray]:
    """What the module gives for each image, one at a time."""
    import torch

    from timmx_core.toolkit.model import tensors_of

    with torch.no_grad():
        rows = [
            [o.float().numpy() for o in tensors_of(module(torch.from_numpy(images[i : i + 1])))]
            for i in range(len(images))
        ]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def snr_of_file(
    path: Path, name: str, images: np.ndarray, want: Sequence[np.ndarray], names: Sequence[str]
) -> float:
    """How near the saved program comes to what is wanted, over its worst output.

    :param name: of the input; `images` are in its form, taken one at a time.
    """
    from timmx_coreml.mil import load
    from timmx_coreml.runner import in_order

    program = load(path)
    got: dict[str, list[np.ndarray]] = {}
    for i in range(len(images)):
        for key, value in program.run({name: images[i : i + 1]}).items():
            if isinstance(value, dict):
                value = in_order(value, program.classes, key)
            if isinstance(value, np.ndarray):
                got.setdefault(key, []).append(value)
    return min(
        decibels(reference, np.concatenate(got[key]))
        for key, reference in zip(names, want, strict=True)
    )


def decibels(want: np.ndarray, got: np.ndarray) -> float:
    """Signal over noise, the signal being what varies from image to image."""
    if want.shape != got.shape or not np.isfinite(got).all():
        return -200.0
    wide = want.astype(np.float64)
    signal = float(((wide - wide.mean(0)) ** 2).mean())
    noise = float(((wide - got) ** 2).mean())
    if signal <= 0 or noise <= 0:
        return 200.0 if noise <= 0 else -200.0
    return float(np.clip(10 * np.log10(signal / noise), -200, 200))
