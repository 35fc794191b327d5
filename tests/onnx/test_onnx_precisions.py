"""Lower precisions: what the files hold, what they agree on, and what gets past nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from photo_trials import calibration_folder, classes_of_file, classes_of_timm
from PIL import Image
from testdata import Photograph

import timmx_core
from timmx_core.errors import ExportError, ModelError, RequestError, VerificationError
from timmx_core.files.publishing import record_path
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn, tiny_vit
from timmx_onnx import export as exporting
from timmx_onnx import fp16, half, metadata, optimization, quantization
from timmx_onnx.backend import OnnxBackend

TIMMX = Path(sys.executable).with_name("timmx")


def exported(folder: Path, model: Any, precision: str, **options: Any) -> timmx_core.ExportResult:
    if precision == "int8":
        options = {"random_calibration": True, "calibration_samples": 12} | options
    given = {"output": str(folder / "model.onnx"), "precision": precision} | options
    if not isinstance(model, str):
        given = {"input_size": INPUT_SIZE} | given
    return timmx_core.export("onnx", model, **given)


def weights_of(path: Path | None) -> dict[int, int]:
    """Bytes of initializers by their type."""
    found: dict[int, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        size = onnx.numpy_helper.to_array(tensor).nbytes
        found[tensor.data_type] = found.get(tensor.data_type, 0) + size
    return found


# ---------------------------------------------------------------- photographs


# A spoiled file agrees on one in a thousand; of the photographs some are nearly ties.
@pytest.mark.parametrize(("precision", "agree"), [("fp16", 16), ("int8", 7), ("dynamic-int8", 15)])
def test_photographs_are_classified_as_by_timm(
    precision: str,
    agree: int,
    tmp_path: Path,
    lite0_dir: Path,
    photographs: list[Photograph],
) -> None:
    """int8 is calibrated on the first ten, and judged on the others."""
    options: dict[str, Any] = {"pretrained": True}
    judged = photographs
    if precision == "int8":
        calibration = calibration_folder(tmp_path, photographs[:10])
        options |= {"random_calibration": False, "calibration_data": calibration}
        judged = photographs[10:]
    result = exported(tmp_path, f"local-dir:{lite0_dir}", precision, **options)
    assert result.verdict.status == "verified"
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, judged)
    given = classes_of_file(result.path, judged)
    assert sum(a == b for a, b in zip(given, expected, strict=True)) >= agree
    # Of 4.65 million weights, in two bytes or in one: between these sizes and the next greater.
    assert result.size < (13e6 if precision == "fp16" else 7e6)


# ---------------------------------------------------------------- fp16


def test_fp16_halves_the_weights_and_leaves_the_ports(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_vit(), "fp16")
    assert result.verdict.status == "verified"
    sizes = weights_of(result.path)
    assert set(sizes) <= {TensorProto.FLOAT16, TensorProto.INT64}
    graph = onnx.load(result.path).graph
    ports = [*graph.input, *graph.output]
    assert {port.type.tensor_type.elem_type for port in ports} == {TensorProto.FLOAT}


def test_fp16_is_judged_in_its_own_arithmetic(tmp_path: Path) -> None:
    """onnxruntime's kernels on the CPU would compute most of it in fp32."""
    rows = exported(tmp_path, tiny_cnn(), "fp16").verdict.measurements
    assert {row.comparison for row in rows} == {"file", "in simulated fp16 arithmetic"}


class Large(torch.nn.Module):
    """A CNN, within which values reach a million."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn: Any = tiny_cnn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trunk: torch.Tensor = self.cnn.trunk(x)
        return self.cnn.head(((trunk * 1e6).relu() / 1e6).mean((2, 3)))


def test_what_does_not_fit_stays_in_fp32_and_is_named(tmp_path: Path) -> None:
    result = exported(tmp_path, Large().eval(), "fp16")
    assert result.verdict.status == "verified"
    (note,) = [note for note in result.notes if note.startswith("kept in fp32: ")]
    kept = result.manifest["report"]["kept_in_fp32"]
    nodes = {node.name: node.op_type for node in onnx.load(result.path).graph.node}
    assert {"Mul", "Div"} <= {nodes[name] for name in kept}
    assert "Mul" in note
    assert len(kept) < len(nodes) / 2


def test_an_overflow_fails_in_fp16_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is kept: the file alone, on this runtime, would pass."""
    monkeypatch.setattr(half, "too_large", lambda model, largest: frozenset())
    monkeypatch.setattr(half, "CIRCLES", (frozenset(),))
    real = half._circles
    monkeypatch.setattr(half, "_circles", lambda *given: list(real(*given))[:1])
    with pytest.raises(VerificationError, match="in simulated fp16 arithmetic"):
        exported(tmp_path, Large().eval(), "fp16")


def test_a_constant_that_fp16_cannot_hold_keeps_its_node_in_fp32() -> None:
    for constant, kept in ((1e-12, ("add",)), (1e6, ("add",)), (0.5, ())):
        port = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("Add", ["x", "c"], ["sum"], "add"),
                helper.make_node("Sigmoid", ["sum"], ["y"], "sigmoid"),
            ],
            "g",
            [port("x", 1, [4])],
            [port("y", 1, [4])],
            [helper.make_tensor("c", 1, [1], [constant])],
            value_info=[port("sum", 1, [4])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        cast = ir.from_proto(model)
        assert fp16.cast(cast).kept == kept
        onnx.checker.check_model(ir.to_proto(cast), full_check=True)


def test_the_emulation_rounds_to_infinity() -> None:
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "c"], ["large"], "up"),
            helper.make_node("Div", ["large", "c"], ["y"], "down"),
        ],
        "g",
        [port("x", 1, [3])],
        [port("y", 1, [3])],
        [helper.make_tensor("c", 1, [1], [1000.0])],
        value_info=[port("large", 1, [3])],
    )
    model = ir.from_proto(helper.make_model(graph, ir_version=10))
    fp16.cast(model)
    emulated = ir.to_proto(fp16.emulate(model)).SerializeToString()
    session = onnxruntime.InferenceSession(emulated, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.array([1, 64, 100], np.float32)})
    assert got.tolist() == [1, 64, np.inf]


def test_bfloat16_has_the_range_of_float32_and_fewer_digits() -> None:
    """Kept as float16 does, with its own limits; emulated since no kernel computes it."""
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "c"], ["large"], "up"),
            helper.make_node("Div", ["large", "c"], ["y"], "down"),
        ],
        "g",
        [port("x", 1, [3])],
        [port("y", 1, [3])],
        [helper.make_tensor("c", 1, [1], [2.0**60])],
        value_info=[port("large", 1, [3])],
    )
    model = ir.from_proto(helper.make_model(graph, ir_version=10))
    assert fp16.cast(model.clone()).kept == ("up", "down")  # the constant is beyond float16
    assert fp16.cast(model, to=fp16.BFLOAT16) == fp16.Cast((), 2)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    emulated = ir.to_proto(fp16.emulate(model)).SerializeToString()
    session = onnxruntime.InferenceSession(emulated, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.array([1, 1 + 2**-7, 1 + 2**-9], np.float32)})
    assert got.tolist() == [1, 1 + 2**-7, 1]


# ---------------------------------------------------------------- int8


def test_int8_has_weights_per_channel(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), "int8")
    assert result.verdict.status == "verified"
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}
    model = onnx.load(result.path)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = [
        tensors[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and tensors[node.input[2]].dtype == np.int8
    ]
    assert any(scale.size > 1 for scale in scales)
    assert result.manifest["precision"]["calibration"]["kind"] == "random"
    assert result.manifest["report"]["calibration_method"] == "percentile"


def test_int8_takes_any_number_of_images_with_a_batch_of_its_own(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), "int8", batch_size=3, calibration_samples=7)
    assert result.verdict.status == "verified"
    dynamic = exported(tmp_path, tiny_cnn(), "int8", dynamic_batch=True, overwrite=True)
    assert {m.batch for m in dynamic.verdict.measurements} >= {1, 3}


def test_what_stands_between_the_layers_stays_in_float_where_that_pays(tmp_path: Path) -> None:
    result = exported(
        tmp_path, "vit_tiny_patch16_224", "int8", input_size=(3, 64, 64), num_classes=10
    )
    assert result.verdict.status == "verified"
    assert "Add" not in result.manifest["report"]["quantized"]
    assert any(note.startswith("only layers are in int8") for note in result.notes)


def test_dynamic_int8_expands_convolutions_and_multiplies_in_integers(tmp_path: Path) -> None:
    result = exported(tmp_path, "test_resnet", "dynamic-int8")
    assert result.verdict.status == "verified"
    kinds = {node.op_type for node in onnx.load(result.path).graph.node}
    assert "MatMulInteger" in kinds
    assert "ConvInteger" not in kinds
    sizes = weights_of(result.path)
    assert sizes[TensorProto.INT8] > 2 * sizes[TensorProto.FLOAT]


def test_a_model_without_weights_worth_it_is_refused(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with pytest.raises(ExportError, match="no weight of the model"):
        exported(tmp_path, Mean().eval(), "dynamic-int8")
    assert not list(tmp_path.iterdir())


def test_calibration_wants_data(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        timmx_core.export(
            "onnx", tiny_cnn(), precision="int8", output=tmp_path / "m.onnx", input_size=INPUT_SIZE
        )
    assert "--calibration-data" in str(caught.value.hint)
    hostile = tmp_path / "objects.npy"
    np.save(hostile, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ModelError, match="pickled objects"):
        exported(
            tmp_path,
            tiny_cnn(),
            "int8",
            random_calibration=False,
            calibration_data=str(hostile),
        )


def test_what_was_calibrated_on_is_said(tmp_path: Path) -> None:
    """In the summary and by inspect; and that so few images are too few."""
    images = tmp_path / "images"
    images.mkdir()
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    Image.fromarray(pixels).save(images / "one.png")
    few, noise = tmp_path / "few.onnx", tmp_path / "noise.onnx"
    said = "numbers  int8: weights int8 per channel, activations uint8; calibrated on "
    for path, words, samples, note in (
        (few, ["--calibration-data", images], "1 image", "calibrated on 1 image: ranges of so few"),
        (noise, ["--random-calibration"], "128 synthetic images", "calibrated on synthetic images"),
    ):
        command = [TIMMX, "onnx", "test_resnet", "--precision", "int8", *words, "-o", path]
        done = subprocess.run(
            [*command, "--accept-inconclusive"], capture_output=True, text=True, check=True
        )
        assert f"note: {note}" in done.stderr
        assert said + samples in done.stderr.splitlines()
        shown = subprocess.run([TIMMX, "inspect", path], capture_output=True, text=True, check=True)
        assert said + samples in shown.stdout.splitlines()


def test_preprocessed_images_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is about an array of floats, and .* is a folder"):
        exported(
            tmp_path,
            "resnet18",
            "int8",
            random_calibration=False,
            calibration_data=str(tmp_path),
            calibration_preprocessed=True,
        )


@pytest.mark.parametrize("option", ["--calibration-data", "--probe-data"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ({}, "holds no images"),
        ({"a.png": b"no image"}, "cannot read the image"),
    ],
)
def test_images_that_are_none_are_told_before_torch_loads(
    content: dict[str, bytes] | None, message: str, option: str, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    out.mkdir()
    if content is not None:
        images.mkdir()
        for name, data in content.items():
            (images / name).write_bytes(data)
    words = ["--precision", "int8"] if option == "--calibration-data" else []
    done = subprocess.run(
        [TIMMX, "onnx", "resnet18", *words, option, images], cwd=out, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert list(out.iterdir()) == []


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also in a process with other hash seeds, since the quantizer works with sets."""
    first = exported(tmp_path, "test_resnet", "int8", verify=False)
    code = (
        "import json, sys, timmx_core\n"
        "given = json.loads(sys.argv[1])\n"
        "timmx_core.export('onnx', 'test_resnet', **given)\n"
    )
    given = {"precision": "int8", "verify": False, "output": str(tmp_path / "again.onnx")}
    given |= {"random_calibration": True, "calibration_samples": 12}
    subprocess.run([sys.executable, "-c", code, json.dumps(given)], check=True, capture_output=True)
    assert first.path is not None
    again = onnx.load(tmp_path / "again.onnx")
    model = onnx.load(first.path)
    for loaded in (model, again):
        del loaded.metadata_props[:]  # the manifest names the file
    assert model.SerializeToString(deterministic=True) == again.SerializeToString(
        deterministic=True
    )


# ---------------------------------------------------------------- faults


def constant(graph: onnx.GraphProto) -> None:
    """The output no longer depends on the image."""
    (output,) = graph.output
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "before"
    graph.initializer.append(helper.make_tensor("nothing", 1, [1], [0.0]))
    graph.node.append(helper.make_node("Mul", ["before", "nothing"], [output.name]))


def scaled(graph: onnx.GraphProto) -> None:
    """The output is three times as large."""
    constant(graph)
    graph.initializer[-1].CopyFrom(helper.make_tensor("nothing", 1, [1], [3.0]))


def mirrored(graph: onnx.GraphProto) -> None:
    """Classes in reverse order."""
    constant(graph)
    graph.node[-1].op_type = "Gather"
    graph.node[-1].attribute.append(helper.make_attribute("axis", 1))
    graph.initializer[-1].CopyFrom(helper.make_tensor("nothing", 7, [10], range(9, -1, -1)))


@pytest.mark.parametrize("precision", ["fp16", "int8", "dynamic-int8"])
def test_structural_faults_fail_in_every_precision(precision: str, tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_vit(), precision)
    path = result.path
    assert path is not None
    assert timmx_core.verify(path).status == "verified"
    record_path(path).unlink()
    good = path.read_bytes()
    for fault in (constant, scaled, mirrored):
        model = onnx.load_from_string(good)
        fault(model.graph)
        onnx.save(model, path)
        verdict = timmx_core.verify(path)
        assert verdict.status == "failed", fault
        assert "dB, below" in verdict.reason


def test_a_fault_of_the_float_file_fails_though_int8_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs scaled by 1.01 are far above the floor of int8, and far below that of fp32."""
    real = exporting.converter.convert

    def convert(*given: Any) -> ir.Model:
        model = ir.to_proto(real(*given))
        scaled(model.graph)
        model.graph.initializer[-1].CopyFrom(helper.make_tensor("nothing", 1, [1], [1.01]))
        return ir.from_proto(model)

    monkeypatch.setattr(exporting.converter, "convert", convert)
    with pytest.raises(VerificationError, match="float file") as caught:
        exported(tmp_path, tiny_cnn(), "int8")
    verdict = caught.value.verdict
    assert {m.status for m in verdict.measurements if m.comparison == "file"} == {"passed"}


def test_the_public_functions_serve_other_formats(tmp_path: Path) -> None:
    """As TensorRT wants it: symmetric int8, with ranges of one's own images."""
    path = exported(tmp_path, tiny_cnn(), "fp32").path
    assert path is not None
    batches = [
        {"input": np.random.default_rng(i).random((1, *INPUT_SIZE), np.float32)} for i in range(3)
    ]
    for method in quantization.METHODS:
        ranges = quantization.calibrate(path, batches, method, tmp_path)
        model = quantization.insert_qdq(path, ranges, symmetric=True)
        zeros = [
            v.const_value.numpy()
            for v in model.graph.initializers.values()
            if str(v.name).endswith("zero_point")
        ]
        assert zeros
        assert all(not zero.any() for zero in zeros)
        assert metadata.read_header(path).opset == model.graph.opset_imports[""]


def test_results_and_biases_can_stay_in_float(tmp_path: Path) -> None:
    """As TensorRT fuses them: what a layer takes is quantized, and neither result nor bias."""
    path = exported(tmp_path, tiny_cnn(), "fp32").path
    assert path is not None
    batch = {"input": np.random.default_rng(1).random((1, *INPUT_SIZE), np.float32)}
    ranges = quantization.calibrate(path, [batch], "minmax", tmp_path)
    layers = ("Conv", "Gemm", "MatMul")
    model = quantization.insert_qdq(
        path, ranges, operators=layers, symmetric=True, inputs_only=True
    )
    assert all(v.dtype != ir.DataType.INT32 for v in model.graph.initializers.values())
    found = [node for node in model.graph if node.op_type in layers]
    assert found
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            assert {user.op_type for user in consumers(node)} & set(layers)


def consumers(node: ir.Node) -> list[ir.Node]:
    """Who takes what a QuantizeLinear gives, behind its DequantizeLinear."""
    return [
        user for dequantize, _ in node.outputs[0].uses() for user, _ in dequantize.outputs[0].uses()
    ]


# ---------------------------------------------------------------- the graph


def compute_the_same(before: onnx.ModelProto, after: onnx.ModelProto, x: np.ndarray) -> None:
    want, got = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for m in (before, after)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def folded(factor: list[int], *, used_twice: bool = False) -> int:
    """How many factors are taken out of a linear layer's result; the answers stay the same."""
    rng = np.random.default_rng(0)
    port = helper.make_tensor_value_info
    arrays = {"w": rng.random((4, 5)), "b": rng.random(5), "c": rng.random(factor)}
    weights = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Mul", ["c", "sum"], ["scaled"]),
        helper.make_node("Add", ["scaled", "sum" if used_twice else "scaled"], ["y"]),
    ]
    inner = [port(name, 1, [1, 5, 5]) for name in ("product", "sum", "scaled")]
    ports = [port("x", 1, [1, 5, 4])], [port("y", 1, [1, 5, 5])]
    graph = helper.make_graph(nodes, "g", *ports, weights, value_info=inner)
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(before)
    count = optimization.fold_scales(model)
    x = rng.random((1, 5, 4), np.float32)
    compute_the_same(before, ir.to_proto(model), x)
    return count


def test_a_factor_behind_a_layer_goes_into_its_weights() -> None:
    """And nothing else does: a factor along another axis, a result that others use."""
    assert folded([5]) == folded([1, 1, 5]) == folded([1]) == 1
    assert folded([5, 1]) == folded([5], used_twice=True) == 0


def pads_folded(layer: str, amounts: list[int], value: float, mode: str = "constant") -> int:
    """Pads that were folded, once both graphs were seen to compute the same."""
    rng = np.random.default_rng(0)
    arrays = {"p": np.array(amounts, np.int64), "v": np.array(value, np.float32)}
    arrays |= {"w": rng.standard_normal((2, 3, 3, 3)).astype(np.float32)} if layer == "Conv" else {}
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()]
    own = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}
    nodes = [
        helper.make_node(
            "Pad", ["x", "p", *(["v"] if mode == "constant" else [])], ["q"], mode=mode
        ),
        helper.make_node(layer, ["q", *(["w"] if layer == "Conv" else [])], ["y"], **own),
    ]
    port = helper.make_tensor_value_info
    ports = [port("x", 1, [1, 3, 9, 8])], [port("y", 1, None)]
    graph = helper.make_graph(nodes, "g", *ports, weights)
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(before)
    count = optimization.fold_pads(model)
    x = -rng.random((1, 3, 9, 8), np.float32)
    compute_the_same(before, ir.to_proto(model), x)
    return count


def test_a_pad_becomes_part_of_the_layer_behind_it() -> None:
    """Unless it pads with what the layer would not, or channels, or more than the window."""
    around = [0, 0, 1, 0, 0, 0, 1, 1]
    assert pads_folded("Conv", around, 0.0) == pads_folded("MaxPool", around, -np.inf) == 1
    assert pads_folded("Conv", around, 0.5) == pads_folded("MaxPool", around, 0.0) == 0
    assert pads_folded("Conv", around, 0.0, "reflect") == 0
    assert pads_folded("MaxPool", [0, 1, 0, 0, 0, 0, 0, 0], -np.inf) == 0
    assert pads_folded("MaxPool", [0, 0, 3, 0, 0, 0, 0, 0], -np.inf) == 0


def test_the_mean_over_a_map_is_a_pooling_in_int8(tmp_path: Path) -> None:
    """And one over channels or without the axes that it had is left, as are all in fp32."""

    class Means(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 64, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            image = self.layer(image)
            whole, wide = image.mean((2, 3), keepdim=True), image.mean((1, 2), keepdim=True)
            return (image * whole + wide).mean((-1, -2))

    found = []
    for precision in ("fp32", "int8"):
        result = exported(tmp_path, Means().eval(), precision, overwrite=True)
        assert result.verdict.status == "verified"
        operators = result.manifest["report"]["operators"]
        found.append((operators.get("GlobalAveragePool", 0), operators["ReduceMean"]))
    assert found == [(0, 3), (1, 2)]


def test_a_group_norm_is_exact_on_a_flat_image(tmp_path: Path) -> None:
    """onnxruntime's own way through the mean square can end in the root of a negative number."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.GroupNorm(2, 4)
            self.norm.weight.data = torch.tensor([0.5, 1.0, 1.5, 2.0])
            self.norm.bias.data = torch.tensor([0.1, 0.0, -0.1, 0.2])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.norm(torch.cat([image, image[:, :1]], 1)).mean(3)

    result = exported(tmp_path, Flat().eval(), "fp32", dynamic_batch=True)
    operators = result.manifest["report"]["operators"]
    assert operators["InstanceNormalization"] == 1
    assert "GroupNormalization" not in operators
    assert result.verdict.status == "verified"


def test_int8_of_a_pooling_that_pads_with_infinity(tmp_path: Path) -> None:
    class Padding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 64, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            padded = torch.nn.functional.pad(self.layer(image), (0, 1, 0, 1), value=-float("inf"))
            return torch.nn.functional.max_pool2d(padded, 3, 2).mean((2, 3))

    assert exported(tmp_path, Padding().eval(), "int8").verdict.status == "verified"


def test_an_optimisation_that_spoils_the_file_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: ir.Model) -> int:
        for value in model.graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT:
                value.const_value = ir.Tensor(value.const_value.numpy() * 1.01, name=value.name)
        return 1

    monkeypatch.setattr(optimization, "fold_scales", spoil)
    assert exported(tmp_path, tiny_cnn(), "fp32").verdict.status == "verified"


def test_the_snippet_of_an_8_bit_file_asks_for_exact_products(tmp_path: Path) -> None:
    """On x86 processors without VNNI the fast ones overflow."""
    result = timmx_core.export(
        "onnx",
        "test_vit",
        precision="dynamic-int8",
        verify=False,
        output=str(tmp_path / "model.onnx"),
    )
    source = OnnxBackend().snippet(result.manifest)
    assert "session.x64quantprecision" in source
    assert any("session.x64quantprecision=1" in note for note in result.notes)
    port = result.manifest["inputs"][0]
    x = np.zeros([1, *port["shape"][1:]], np.float32)
    scope: dict[str, Any] = {"path": str(result.path), "x": x}
    exec(source, scope)
    assert scope["outputs"][0].shape == (1, 1000)
