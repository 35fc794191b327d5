"""Resizing of the last two dimensions, and sampling at given points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation
from timmx_coreml.mil.ops.registry import Arguments, op, within_limit


def _strict(size: int, count: int) -> torch.Tensor:
    step = (size - 1) / (count - 1) if count > 1 else 0.0
    return torch.arange(count, dtype=torch.float64) * step


def _aligned(size: int, count: int) -> torch.Tensor:
    if count == 1:
        return torch.tensor([(size - 1) / 2], dtype=torch.float64)
    return _strict(size, count)


def _default(size: int, count: int) -> torch.Tensor:
    step = (size - size / count) / (count - 1) if count > 1 else 0.0
    return torch.arange(count, dtype=torch.float64) * step


def _offset(size: int, count: int) -> torch.Tensor:
    delta = max(1, size - 1) / count
    return 0.5 * delta + torch.arange(count, dtype=torch.float64) * delta


def _unaligned(size: int, count: int) -> torch.Tensor:
    step = size / count
    return (torch.arange(count, dtype=torch.float64) + 0.5) * step - 0.5


# Where the output samples an input of `size` elements, by `sampling_mode`.
_GRIDS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "STRICT_ALIGN_CORNERS": _strict,
    "ALIGN_CORNERS": _aligned,
    "DEFAULT": _default,
    "OFFSET_CORNERS": _offset,
    "UNALIGN_CORNERS": _unaligned,
}


def _interpolated(x: torch.Tensor, axis: int, points: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of x along one axis at these points, held inside its ends."""
    size = x.shape[axis]
    points = points.clamp(0, size - 1)
    low = points.floor().long()
    high = (low + 1).clamp(max=size - 1)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    weight = (points - low).to(torch.float32).reshape(shape)
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _bilinear(x: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return _interpolated(_interpolated(x, x.ndim - 2, height), x.ndim - 1, width)


def _nearest(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    for axis, count in ((x.ndim - 2, height), (x.ndim - 1, width)):
        index = torch.arange(count) * x.shape[axis] // count
        x = x.index_select(axis, index)
    return x


def _target(a: Arguments, x: torch.Tensor) -> tuple[int, int]:
    height = math.floor(x.shape[-2] * a.number("scale_factor_height", 1.0))
    width = math.floor(x.shape[-1] * a.number("scale_factor_width", 1.0))
    return _checked(x, height, width)


def _checked(x: torch.Tensor, height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1 or x.ndim < 3:
        raise ProgramError(f"a resize of {list(x.shape)} to {height} x {width}")
    within_limit([*x.shape[:-2], height, width])
    return height, width


@op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return _nearest(x, *_target(a, x))


@op("resize_nearest_neighbor", moves=True)
def resize_nearest_neighbor(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    size = a.integer("target_size_height"), a.integer("target_size_width")
    return _nearest(x, *_checked(x, *size))


@op("upsample_bilinear")
def upsample_bilinear(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    height, width = _target(a, x)
    align = a.flag("align_corners", True)
    half_pixel = a.flag("half_pixel_centers", not align)
    if align and half_pixel:
        raise ProgramError("align_corners and half_pixel_centers exclude each other")
    grid = _strict if align else _unaligned if half_pixel else _legacy
    return _bilinear(x, grid(x.shape[-2], height), grid(x.shape[-1], width))


def _legacy(size: int, count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64) * (size / count)


@op("resize_bilinear")
def resize_bilinear(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    size = a.integer("target_size_height", 1), a.integer("target_size_width", 1)
    height, width = _checked(x, *size)
    grid = a.choose("sampling_mode", a.text("sampling_mode", "DEFAULT"), _GRIDS)
    return _bilinear(x, grid(x.shape[-2], height), grid(x.shape[-1], width))


@op("resize")
def resize(a: Arguments) -> torch.Tensor:
    x, shape, count = a.tensor("x"), a.integers("shape"), a.integer("resized_dims")
    if a.text("interpolation_mode", "LINEAR") != "LINEAR":
        # Which neighbour is nearest at a tie is not documented for this operation.
        raise UnsupportedOperation("operation resize to the nearest neighbour")
    grid = a.choose("sampling_mode", a.text("sampling_mode", "DEFAULT"), _GRIDS)
    if not 0 <= count <= min(len(shape), x.ndim):
        raise ProgramError(f"a resize of {count} dimensions of {x.ndim}")
    for i in range(1, count + 1):
        axis, wanted = x.ndim - i, shape[-i] or x.shape[-i]
        within_limit([*x.shape[:axis], wanted, *x.shape[axis + 1 :]])
        if wanted != x.shape[axis]:
            x = _interpolated(x, axis, grid(x.shape[axis], wanted))
    return x


@op("crop_resize")
def crop_resize(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    if a.has("roi"):
        roi = a.tensor("roi").reshape(a.tensor("roi").shape[0], -1)
        given = roi.shape[1] == 5
        boxes = roi[:, 1:] if given else roi
        images = roi[:, 0].long().tolist() if given else None
    else:
        boxes = a.tensor("boxes")
        images = a.integers("box_indices", range(boxes.shape[0]))
    height, width = a.integer("target_height", 1), a.integer("target_width", 1)
    within_limit([boxes.shape[0], *x.shape[:2], height, width])
    crops = []
    for i, box in enumerate(boxes.to(torch.float64)):
        rows, columns = _box(a, box, x.shape[-2], x.shape[-1], height, width)
        source = x if images is None else x[images[i]].unsqueeze(0)
        crops.append(_bilinear(source, rows, columns))
    result = torch.stack(crops)
    return result if a.has("roi") else result.squeeze(1)


def _box(
    a: Arguments, box: torch.Tensor, high: int, wide: int, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    modes = {
        "CORNERS_HEIGHT_FIRST": (True, True),
        "CORNERS_WIDTH_FIRST": (True, False),
        "CENTER_SIZE_HEIGHT_FIRST": (False, True),
        "CENTER_SIZE_WIDTH_FIRST": (False, False),
    }
    name = a.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST")
    corners, height_first = a.choose("box_coordinate_mode", name, modes)
    box = box * a.number("spatial_scale", 1.0)
    first, second, third, fourth = box.tolist()
    if not corners:
        first, second, third, fourth = (
            first - third / 2,
            second - fourth / 2,
            first + third / 2,
            second + fourth / 2,
        )
    top, left, bottom, right = (
        (first, second, third, fourth) if height_first else (second, first, fourth, third)
    )
    if a.flag("normalized_coordinates"):
        top, bottom = top * (high - 1), bottom * (high - 1)
        left, right = left * (wide - 1), right * (wide - 1)
    if top < 0 or left < 0 or bottom > high - 1 or right > wide - 1:
        raise UnsupportedOperation("operation crop_resize with a box beyond the image")
    mode = a.text("sampling_mode", "DEFAULT")
    if mode not in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        raise UnsupportedOperation(f"operation crop_resize with sampling_mode {mode!r}")
    return _between(top, bottom, height, mode), _between(left, right, width, mode)


def _between(start: float, end: float, count: int, mode: str) -> torch.Tensor:
    if count == 1:
        middle = (start + end) / 2 if mode == "ALIGN_CORNERS" else start
        return torch.tensor([middle], dtype=torch.float64)
    return torch.linspace(start, end, count, dtype=torch.float64)


@op("resample")
def resample(a: Arguments) -> torch.Tensor:
    x, points = a.tensor("x"), a.tensor("coordinates").to(torch.float32)
    mode = a.choose("sampling_mode", a.text("sampling_mode"), {"bilinear": "bilinear"})
    paddings = {"constant": "zeros", "border": "border", "reflection": "reflection"}
    padding = a.choose("padding_mode", a.text("padding_mode"), paddings)
    if padding == "zeros" and a.number("padding_value", 0.0) != 0:
        raise UnsupportedOperation("operation resample with a padding value")
    known = {"unnormalized": 0, "normalized_minus_one_to_one": 1}
    normalized = a.choose("coordinates_mode", a.text("coordinates_mode"), known)
    align = a.flag("align_corners", True)
    if not normalized:
        size = torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1], dtype=torch.float32)
        points, align = 2 * points / size.clamp(min=1) - 1, True
    return functional.grid_sample(x, points, mode=mode, padding_mode=padding, align_corners=align)
