"""Compressed weights: linear integers, or palettes."""

from __future__ import annotations

from typing import Any

from timmx_coreml.palettes import palettize

COMPRESSED = ("int8", "int4", "palette4", "palette6")
_KINDS = (
    "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale",
    "constexpr_lut_to_dense",
)


def compress(model: Any, precision: str) -> Any:
    """An `MLModel` with its weights compressed, and all else as it was."""
    import coremltools.optimize.coreml as cto

    if precision.startswith("palette"):
        bits = int(precision.removeprefix("palette"))
        palette = cto.OpPalettizerConfig(
            mode="custom", lut_function=lambda weight: palettize(weight, bits)
        )
        return cto.palettize_weights(model, cto.OptimizationConfig(global_config=palette))
    if precision == "int4":
        linear = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
        )
    else:
        linear = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel"
        )
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=linear))


def expand(model: Any) -> Any:
    """The same model with its weights written out again, by the converter's own arithmetic."""
    import coremltools.optimize.coreml as cto

    return cto.decompress_weights(model)


def compressed_operations(operators: dict[str, int]) -> int:
    """How many weights are stored compressed."""
    return sum(operators.get(kind, 0) for kind in _KINDS)
