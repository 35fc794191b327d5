"""Every operation that the interpreter computes, by the name that MIL gives it."""

from timmx_coreml.mil.ops import (
    activation,
    attention,
    compression,
    control,
    convolution,
    creation,
    elementwise,
    gathering,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
    shaping,
    slicing,
)
from timmx_coreml.mil.ops.registry import MOVES, OPERATIONS

__all__ = [
    "MOVES",
    "OPERATIONS",
    "activation",
    "attention",
    "compression",
    "control",
    "convolution",
    "creation",
    "elementwise",
    "gathering",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resizing",
    "shaping",
    "slicing",
]
