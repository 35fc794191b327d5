"""Tensors made from shapes and numbers, and classifiers' answers."""

from __future__ import annotations

import math

import torch

from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.ops.registry import Arguments, axis_of, op, within_limit
from timmx_coreml.mil.types import carrier


@op("fill", moves=True)
def fill(a: Arguments) -> torch.Tensor:
    shape = within_limit(a.integers("shape"))
    dtype = carrier(a.output_type().dtype)
    return torch.full(shape, a.number("value", 0.0), dtype=dtype)


@op("fill_like", moves=True)
def fill_like(a: Arguments) -> torch.Tensor:
    dtype = carrier(a.output_type().dtype)
    return torch.full(a.tensor("ref_tensor").shape, a.number("value", 0.0), dtype=dtype)


@op("range_1d")
def range_1d(a: Arguments) -> torch.Tensor:
    start, end, step = a.number("start"), a.number("end"), a.number("step", 1.0)
    if step == 0 or not all(map(math.isfinite, (start, end, step))):
        raise ProgramError(f"a range from {start} to {end} in steps of {step}")
    within_limit([max(math.ceil((end - start) / step), 0)])
    return torch.arange(start, end, step, dtype=torch.float64).to(carrier(a.output_type().dtype))


@op("one_hot", moves=True)
def one_hot(a: Arguments) -> torch.Tensor:
    indices = a.tensor("indices").long()
    size, axis = a.integer("one_hot_vector_size"), a.integer("axis", -1)
    axis = axis_of(axis, indices.ndim + 1)
    within_limit([*indices.shape, size])
    shape = [size if i == axis else 1 for i in range(indices.ndim + 1)]
    hit = indices.unsqueeze(axis) == torch.arange(size).reshape(shape)
    dtype = carrier(a.output_type().dtype)
    on = torch.tensor(a.number("on_value", 1.0), dtype=dtype)
    return torch.where(hit, on, torch.tensor(a.number("off_value", 0.0), dtype=dtype))


@op("non_zero", moves=True)
def non_zero(a: Arguments) -> torch.Tensor:
    return torch.nonzero(a.tensor("x")).to(torch.int32)


@op("shape", moves=True)
def shape(a: Arguments) -> torch.Tensor:
    return torch.tensor(list(a.tensor("x").shape), dtype=torch.int32)


@op("identity", moves=True)
def identity(a: Arguments) -> object:
    return a.any("x")


@op("band_part", moves=True)
def band_part(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    lower, upper = a.integer("lower", -1), a.integer("upper", -1)
    rows = torch.arange(x.shape[-2]).unsqueeze(1)
    columns = torch.arange(x.shape[-1]).unsqueeze(0)
    inside = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        inside &= rows - columns <= lower
    if upper >= 0:
        inside &= columns - rows <= upper
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype))


@op("classify", moves=True)
def classify(a: Arguments) -> tuple[object, dict[object, float]]:
    """The most probable class, and the probability of each, as Core ML gives them."""
    probabilities = a.tensor("probabilities").reshape(-1)
    classes = a.any("classes")
    if isinstance(classes, torch.Tensor):
        classes = classes.tolist()
    if not isinstance(classes, list) or len(classes) != probabilities.numel():
        raise ProgramError("a classifier whose classes and probabilities differ in number")
    best = classes[int(torch.argmax(probabilities))]
    return best, dict(zip(classes, probabilities.tolist(), strict=True))
