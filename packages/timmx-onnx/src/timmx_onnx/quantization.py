"""8 bits, with onnxruntime's quantizer: public, for formats that derive from ONNX.

Static quantization puts QuantizeLinear and DequantizeLinear around what is to be computed in
integers; the ranges of the activations come from `calibrate`. Dynamic quantization finds them when
the file runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from timmx_onnx.constants import add_initializer
from timmx_onnx.runner import import_onnxruntime

if TYPE_CHECKING:
    from onnx_ir import Model, Node, Value

METHODS = ("percentile", "minmax", "entropy")
PERCENTILE = 99.99
# Layers, and the activations that are nothing but the range of what precedes them.
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip")
# What stands between layers: in integers a whole CNN stays in integers.
BETWEEN = (
    *("Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "ReduceMean"),
    "Sigmoid",  # of SiLU
)
LEAST_WEIGHT = 1024  # numbers; smaller ones are not worth the rounding


def calibrate(
    source: Path, batches: Iterable[Mapping[str, np.ndarray]], method: str, scratch: Path
) -> Any:
    """The ranges of all activations that may be quantized.

    :param batches: inputs by name; at least one.
    :param method: one of `METHODS`.
    :param scratch: a folder for the graph that is run.
    :return: onnxruntime's own `TensorsData`.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    kinds = {
        "percentile": CalibrationMethod.Percentile,
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
    }
    options = {"percentile": PERCENTILE, "symmetric": False} if method == "percentile" else {}
    calibrator = create_calibrator(
        source,
        [*LAYERS, *BETWEEN],
        augmented_model_path=str(scratch / "calibration.onnx"),
        calibrate_method=kinds[method],
        extra_options=options,
    )
    for batch in batches:
        # One at a time: what a histogram is made of is held until its batches are counted.
        calibrator.collect_data(_reader(batch))
    return calibrator.compute_data()


def _reader(batch: Mapping[str, np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class OneBatch(CalibrationDataReader):  # type: ignore[misc]  # has no types
        def __init__(self) -> None:
            self.rest: list[dict[str, np.ndarray]] = [dict(batch)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.rest.pop() if self.rest else None

    return OneBatch()


def insert_qdq(
    source: Path,
    ranges: Any,
    *,
    operators: Collection[str] = (*LAYERS, *BETWEEN),
    exclude: Collection[str] = (),
    symmetric: bool = False,
    inputs_only: bool = False,
) -> Model:
    """A quantized graph: weights of int8 per channel, activations of uint8.

    :param ranges: what `calibrate` gave for the same file.
    :param operators: kinds that are computed in integers.
    :param exclude: names of nodes that stay in float.
    :param symmetric: activations of int8 around zero, as TensorRT takes them.
    :param inputs_only: leave results and biases in float, as TensorRT takes them.
    """
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        False,  # reduce_range
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else QuantType.QUInt8,
        ranges,
        [],
        list(exclude),
        list(operators),
        {
            "ActivationSymmetric": symmetric,
            "OpTypesToExcludeOutputQuantization": list(operators) if inputs_only else [],
            "QuantizeBias": not inputs_only,
        },
    )
    quantizer.quantize_model()
    return _loaded(quantizer.model.model)


def quantize_dynamic(source: Path, scratch: Path) -> Model:
    """A graph whose matrix products are computed in integers, and whose weights are all of int8.

    Convolutions compute in float: onnxruntime's integer ones take ten times as long. Their weights
    are expanded once, when a session starts.

    :param scratch: a folder for onnxruntime's own file.
    """
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    target = scratch / "dynamic.onnx"
    quantize(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    model = _loaded(onnx.load(target))
    target.unlink()
    compress_weights(model)
    return model


def compress_weights(model: Model) -> None:
    """Store the weights of dense convolutions in int8, with one scale per output channel, in place.

    A Cast and a Mul expand them, which runtimes compute when they load the file; a
    DequantizeLinear would be computed again for every image.
    """
    for node in list(model.graph):
        if node.op_type in ("Conv", "ConvTranspose") and _is_dense(node):
            weight = node.inputs[1]
            if weight is not None and _is_weight(weight):
                axis = 0 if node.op_type == "Conv" else 1
                node.replace_input_with(1, _expanded(model, node, weight, axis))
                if not weight.uses():
                    del model.graph.initializers[str(weight.name)]


def _is_dense(node: Node) -> bool:
    """Depthwise weights are few, and their channels suffer most."""
    group = node.attributes.get("group")
    return group is None or group.value == 1


def _is_weight(value: Value) -> bool:
    tensor = value.const_value if value.is_initializer() else None
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= LEAST_WEIGHT


def _expanded(model: Model, node: Node, weight: Value, axis: int) -> Value:
    assert weight.const_value is not None
    numbers = weight.const_value.numpy()
    others = tuple(i for i in range(numbers.ndim) if i != axis)
    largest = np.abs(numbers).max(axis=others, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    small = np.rint(numbers / scale).astype(np.int8)
    parts = []
    for suffix, array in (("int8", small), ("scale", scale)):
        parts.append(add_initializer(model, f"{weight.name}_{suffix}", array))
    wide = ir.node("Cast", [parts[0]], {"to": ir.DataType.FLOAT.value}, name=f"{weight.name}_cast")
    wide.outputs[0].name = f"{weight.name}_cast"
    whole = ir.node("Mul", [wide.outputs[0], parts[1]], name=f"{weight.name}_expand")
    result: Value = whole.outputs[0]
    result.name = f"{weight.name}_expanded"
    for value in (wide.outputs[0], result):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = weight.shape
    model.graph.insert_before(node, [wide, whole])
    return result


def _loaded(proto: Any) -> Model:
    """What the quantizer made, in the order of its dependencies."""
    model: Model = ir.from_proto(proto)
    model.graph.sort()
    return model
