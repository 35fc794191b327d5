"""Operations on each element: unary, binary with broadcasting, and casts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from timmx_coreml.mil.ops.registry import Arguments, op
from timmx_coreml.mil.types import carrier

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}


@op(*_UNARY)
def unary(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    result = _UNARY[a.kind](x)
    return result if x.is_floating_point() else result.to(x.dtype)


@op(*_BINARY)
def binary(a: Arguments) -> torch.Tensor:
    return _BINARY[a.kind](a.tensor("x"), a.tensor("y"))


@op("real_div")
def real_div(a: Arguments) -> torch.Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    result = torch.true_divide(x, y)
    # Of whole numbers, a whole number: the quotient rounded down.
    return result if x.is_floating_point() else torch.floor(result).to(x.dtype)


@op("logical_not")
def logical_not(a: Arguments) -> torch.Tensor:
    return torch.logical_not(a.tensor("x"))


@op("clip")
def clip(a: Arguments) -> torch.Tensor:
    return a.tensor("x").clamp(a.number("alpha"), a.number("beta"))


@op("threshold")
def threshold(a: Arguments) -> torch.Tensor:
    return a.tensor("x").clamp(min=a.number("alpha"))


@op("inverse")
def inverse(a: Arguments) -> torch.Tensor:
    return torch.reciprocal(a.tensor("x") + a.number("epsilon", 1e-4))


@op("log")
def log(a: Arguments) -> torch.Tensor:
    return torch.log(a.tensor("x") + a.number("epsilon", 1e-45))


@op("rsqrt")
def rsqrt(a: Arguments) -> torch.Tensor:
    return torch.rsqrt(a.tensor("x") + a.number("epsilon", 1e-12))


@op("select")
def select(a: Arguments) -> torch.Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


@op("cast")
def cast(a: Arguments) -> torch.Tensor:
    x, dtype = a.tensor("x"), a.text("dtype")
    target = carrier(dtype)
    if x.is_floating_point() and not target.is_floating_point and target != torch.bool:
        x = torch.trunc(x)
    if dtype == "uint16":
        return x.to(torch.int64).remainder(1 << 16).to(target)
    return x.to(target)


@op("quantize")
def quantize(a: Arguments) -> torch.Tensor:
    x = a.tensor("input")
    low, high = (0, 255) if a.text("output_dtype") == "uint8" else (-128, 127)
    scale = along(a.tensor("scale"), x, a)
    shift = along(a.tensor("zero_point"), x, a) if a.has("zero_point") else 0
    result = torch.round(x / scale) + shift
    return result.clamp(low, high).to(carrier(a.text("output_dtype")))


@op("dequantize")
def dequantize(a: Arguments) -> torch.Tensor:
    x = a.tensor("input").to(torch.float32)
    if a.has("zero_point"):
        x = x - along(a.tensor("zero_point"), x, a).to(torch.float32)
    return x * along(a.tensor("scale"), x, a)


def along(parameter: torch.Tensor, x: torch.Tensor, a: Arguments) -> torch.Tensor:
    """A scalar or vector parameter, shaped to broadcast along the operation's `axis` of x."""
    if parameter.ndim == 0:
        return parameter
    axis = a.integer("axis") % x.ndim
    return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
