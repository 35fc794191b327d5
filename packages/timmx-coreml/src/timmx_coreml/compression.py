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
        spared = dict.fromkeys(_depthwise(model))
        config = cto.OptimizationConfig(global_config=palette, op_name_configs=spared)
        return cto.palettize_weights(model, config)
    if precision == "int4":
        linear = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
        )
    else:
        linear = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel"
        )
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=linear))


def _depthwise(model: Any) -> list[str]:
    """The weights of depthwise convolutions, by name.

    One palette for all of their channels, whose scales differ most, spoils a whole network; and
    they are a few hundredths of its size.
    """
    names = []
    for function in model._spec.mlProgram.functions.values():
        operations = function.block_specializations[function.opset].operations
        shapes = {
            o.outputs[0].name: [d.constant.size for d in o.outputs[0].type.tensorType.dimensions]
            for o in operations
            if o.type == "const"
        }
        for operation in operations:
            if operation.type == "conv":
                name = operation.inputs["weight"].arguments[0].name
                shape = shapes.get(name, [])
                if len(shape) > 2 and shape[0] > 1 and shape[1] == 1:
                    names.append(name)
    return names


def expand(model: Any) -> Any:
    """The same model with its weights written out again, by the converter's own arithmetic."""
    import coremltools.optimize.coreml as cto

    return cto.decompress_weights(model)


def compressed_operations(operators: dict[str, int]) -> int:
    """How many weights are stored compressed."""
    return sum(operators.get(kind, 0) for kind in _KINDS)
