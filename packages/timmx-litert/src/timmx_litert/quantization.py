"""Fewer bits: float16 weights, and 8 bits with LiteRT's quantizer, made of a file in float32.

Static quantization takes the ranges of the activations from `calibrate`; dynamic quantization
leaves them to the runtime, which finds them for every row as it comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from timmx_litert.converter import SIGNATURE
from timmx_litert.graph import Graph
from timmx_litert.quantizer import part

LAYERS = ("CONV_2D", "CONV_2D_TRANSPOSE", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Depthwise convolutions have few weights, and LiteRT computes them slowly in such files.
DYNAMIC = ("CONV_2D", "FULLY_CONNECTED")
EVERYTHING = ("ALL_SUPPORTED",)
HALVED = (*LAYERS, "TRANSPOSE_CONV", "BATCH_MATMUL", "EMBEDDING_LOOKUP", "GATHER")
LEAST_WEIGHT = 64  # numbers; smaller ones are not worth the rounding

Ranges = Mapping[str, Any]


def halve(graph: Graph) -> int:
    """Store the weights of layers in float16, in place; runtimes expand them when they load.

    What float16 cannot hold stays.

    :return: how many weights were halved.
    """
    users = graph.users()
    count = 0
    for tensor in sorted(users):
        array = graph.array(tensor)
        kinds = {graph.kind(user) for user in users[tensor]}
        if array is None or array.dtype != np.float32 or not kinds <= set(HALVED):
            continue
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if array.size < LEAST_WEIGHT or not np.isfinite(half).all():
            continue
        _expand(graph, tensor, half)
        count += 1
    return count


def _expand(graph: Graph, tensor: int, half: np.ndarray) -> None:
    """Let an operator make the tensor from its half."""
    name = graph.tensors[tensor].name.decode("utf-8", "replace")
    stored = graph.add_constant(half, f"{name};float16")
    graph.tensors[tensor].buffer = 0
    graph.add_operator("DEQUANTIZE", [stored], [tensor], at=0)


def quantize_dynamic(data: bytes, *, per_channel: bool = True) -> bytes:
    """Weights of layers in int8, which the runtime multiplies with activations in int8."""
    qtyping = part("qtyping")
    quantizer = _quantizer(data)
    for name in DYNAMIC:
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=_weights(per_channel),
            compute_precision=qtyping.ComputePrecision.INTEGER,
            explicit_dequantize=False,
            min_weight_elements=LEAST_WEIGHT,
        )
        quantizer.update_quantization_recipe(".*", _operation(name), config)
    return _run(quantizer, None)


def calibrate(data: bytes, batches: Iterable[Mapping[str, np.ndarray]], threads: int) -> Ranges:
    """The smallest and greatest value of every tensor.

    :param batches: inputs by name, each of the file's own batch size.
    """
    calibrator, recipe_manager = part("calibrator"), part("recipe_manager")
    watching = calibrator.Calibrator(
        data,
        num_threads=threads,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=part("utils.qsv_utils").min_max_update,
    )
    watching.calibrate({SIGNATURE: list(batches)}, recipe_manager.RecipeManager())
    return _with_rank(watching.get_model_qsvs(), Graph(data))


def _with_rank(ranges: Ranges, graph: Graph) -> Ranges:
    """Ranges as arrays of as many dimensions as their tensors have, as the quantizer wants them."""
    ranks = {t.name.decode("utf-8", "replace"): len(t.shape) for t in graph.tensors}
    return {
        name: {end: np.reshape(value, (1,) * ranks[name]) for end, value in found.items()}
        for name, found in ranges.items()
        if name in ranks
    }


def quantize_static(
    data: bytes,
    ranges: Ranges,
    operations: Collection[str],
    *,
    ports: Mapping[str, str],
    per_channel: bool = True,
) -> bytes:
    """Weights and activations in int8.

    :param ranges: what `calibrate` gave for the same file.
    :param operations: kinds that are computed in integers, or `EVERYTHING`.
    :param ports: "INPUT" and "OUTPUT" -> "int8", "uint8" or "float32".
    """
    quantizer = part("quantizer")
    working = _quantizer(data)
    for name in operations:
        config = _static(per_channel, "int8")
        working.update_quantization_recipe(".*", _operation(name), config)
    for name, dtype in ports.items():
        if dtype != "float32":
            config = _static(per_channel, dtype)
            working.update_quantization_recipe(".*", _operation(name), config)
        elif operations == EVERYTHING:
            working.update_quantization_recipe(
                ".*",
                _operation(name),
                algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
            )
    return _run(working, ranges)


def _static(per_channel: bool, dtype: str) -> Any:
    qtyping = part("qtyping")
    kind = qtyping.TensorDataType.UINT if dtype == "uint8" else qtyping.TensorDataType.INT
    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=False, dtype=kind
        ),
        weight_tensor_config=_weights(per_channel),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )


def _weights(per_channel: bool) -> Any:
    qtyping = part("qtyping")
    granularity = qtyping.QuantGranularity
    return qtyping.TensorQuantizationConfig(
        num_bits=8,
        symmetric=True,
        granularity=granularity.CHANNELWISE if per_channel else granularity.TENSORWISE,
    )


def _operation(name: str) -> Any:
    qtyping = part("qtyping")
    return getattr(qtyping.TFLOperationName, name)


def _quantizer(data: bytes) -> Any:
    return part("quantizer").Quantizer(data)


def _run(quantizer: Any, ranges: Ranges | None) -> bytes:
    result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def integers_in(graph: Graph) -> int:
    """How many weights are stored in int8."""
    return sum(
        tensor.type == schema.TensorType.INT8 and graph.array(index) is not None
        for index, tensor in enumerate(graph.tensors)
    )
