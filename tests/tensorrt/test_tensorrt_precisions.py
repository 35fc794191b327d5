"""What targets can do, as the library says; Q/DQ as the builder wants it; and what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from timmx_core import api
from timmx_core.errors import ExportError
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_onnx import fp16, quantization
from timmx_onnx.constants import array_of
from timmx_tensorrt import qdq, targets
from timmx_tensorrt.builder import build
from timmx_tensorrt.library import RTX
from timmx_tensorrt.settings import Settings

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN with a dense layer at its end, in float32."""
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    api.export("onnx", tiny_cnn(), output=path, input_size=INPUT_SIZE, verify=False)
    return path


@pytest.fixture(scope="module")
def quantized(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """The same in int8."""
    folder = tmp_path_factory.mktemp("quantized")
    batches = [{"input": image[None]} for image in images(4)]
    ranges = quantization.calibrate(plain, batches, "minmax", folder)
    return quantization.insert_qdq(
        plain, ranges, operators=qdq.LAYERS, symmetric=True, inputs_only=True
    )


def images(count: int) -> np.ndarray:
    return np.random.default_rng(3).random((count, *INPUT_SIZE), np.float32)


def answers(path: Path, *, optimised: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    rows = [session.run(None, {"input": image[None]})[0] for image in images(4)]
    return np.concatenate(rows)


def test_targets_lack_what_the_library_says(
    plain: Path, quantized: ir.Model, tmp_path: Path
) -> None:
    graphs = {"fp32": ir.load(plain), "int8": quantized.clone()}
    for name, kind in (("fp16", fp16.FLOAT16), ("bf16", fp16.BFLOAT16)):
        graphs[name] = ir.load(plain)
        fp16.cast(graphs[name], to=kind)
    graphs["fp8"] = quantized.clone()
    weights = {n: array_of(v) for n, v in ir.load(plain).graph.initializers.items()}
    qdq.to_float8(graphs["fp8"], weights)
    for precision, graph in graphs.items():
        path = tmp_path / f"{precision}.onnx"
        ir.save(graph, path)
        for target in targets.LACKS:
            settings = Settings(targets=(target,))
            if target in targets.able(precision):
                build(RTX, path, tmp_path / "model.engine", settings, {})
            else:
                with pytest.raises(ExportError, match="could not build"):
                    build(RTX, path, tmp_path / "model.engine", settings, {})


def test_the_oldest_target_is_on_request() -> None:
    assert targets.parse(None, "fp16") == ("sm80", "sm86", "sm89", "sm120", "sm121")
    assert targets.parse("SM86, sm75", "fp16") == ("sm75", "sm86")
    assert targets.parse(None, "fp8") == ("sm89", "sm120", "sm121")


def test_layers_take_int8_and_give_float(quantized: ir.Model) -> None:
    layers = [node for node in quantized.graph if node.op_type in qdq.LAYERS]
    assert layers
    for node in layers:
        data, weight, *bias = node.inputs
        for value in (data, weight):
            assert value is not None
            producer = value.producer()
            assert producer is not None
            assert producer.op_type == qdq.DEQUANTIZE
            zero = producer.inputs[2]
            assert zero is not None
            assert zero.dtype == ir.DataType.INT8
            assert not array_of(zero).any()
        assert all(value is None or value.is_initializer() for value in bias)


def test_the_emulation_is_what_the_operators_mean(
    plain: Path, quantized: ir.Model, tmp_path: Path
) -> None:
    """onnxruntime without its optimisations follows the definition of each operator."""
    ir.save(quantized, tmp_path / "int8.onnx")
    ir.save(qdq.emulate(quantized), tmp_path / "emulated.onnx")
    small = quantized.clone()
    weights = {n: array_of(v) for n, v in ir.load(plain).graph.initializers.items()}
    qdq.to_float8(small, weights)
    ir.save(small, tmp_path / "fp8.onnx")
    ir.save(qdq.emulate(small), tmp_path / "emulated8.onnx")
    whole = answers(plain)
    for name, emulated in (("int8", "emulated"), ("fp8", "emulated8")):
        meant = answers(tmp_path / f"{name}.onnx", optimised=False)
        got = answers(tmp_path / f"{emulated}.onnx")
        # A value between two steps may be rounded to either.
        assert np.square(got - meant).mean() < np.square(meant - whole).mean() / 100
        assert not np.allclose(got, whole, atol=1e-6)
