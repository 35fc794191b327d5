"""Lower precisions: what the files hold, what they agree on, and what gets past nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photo_trials import classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.errors import RequestError, VerificationError
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn, tiny_vit
from timmx_litert import export as exporting
from timmx_litert.graph import Graph


def exported(folder: Path, model: Any, precision: str, **options: Any) -> timmx_core.ExportResult:
    if precision == "int8":
        options = {"random_calibration": True, "calibration_samples": 12} | options
    given = {"output": str(folder / "model.tflite"), "precision": precision} | options
    if not isinstance(model, str):
        given = {"input_size": INPUT_SIZE} | given
    return timmx_core.export("litert", model, **given)


def graph_of(result: timmx_core.ExportResult) -> Graph:
    assert result.path is not None
    return Graph(result.path.read_bytes())


@pytest.mark.parametrize(
    ("precision", "agree", "size"),
    # A spoiled file agrees on one in a thousand; of the photographs some are nearly ties. There are
    # 4.65 million weights of four, two or one byte: sizes are between these and the next greater.
    [("fp32", 16, 24e6), ("fp16", 16, 13e6), ("dynamic-int8", 15, 7.5e6), ("int8", 7, 7.5e6)],
)
def test_photographs_are_classified_as_by_timm(
    precision: str,
    agree: int,
    size: float,
    tmp_path: Path,
    lite0_dir: Path,
    photographs: list[Photograph],
) -> None:
    """int8 is calibrated on the first ten, and judged on the others."""
    options: dict[str, Any] = {"pretrained": True, "nhwc_input": True}
    judged = photographs
    if precision == "int8":
        calibration = tmp_path / "calibration"
        calibration.mkdir()
        for photograph in photographs[:10]:
            (calibration / photograph.path.name).symlink_to(photograph.path)
        options |= {"random_calibration": False, "calibration_data": str(calibration)}
        judged = photographs[10:]
    result = exported(tmp_path, f"local-dir:{lite0_dir}", precision, **options)
    assert result.verdict.status == "verified"
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, judged)
    given = classes_of_file(result.path, judged)
    assert sum(a == b for a, b in zip(given, expected, strict=True)) >= agree
    assert result.size < size


def test_fp16_halves_the_weights_and_leaves_the_ports(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_vit(), "fp16")
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}
    graph = graph_of(result)
    kinds = {t.type for i, t in enumerate(graph.tensors) if graph.array(i) is not None}
    assert 1 in kinds  # FLOAT16
    assert graph.numbers(graph.inputs["input"]) == ("float32", None)
    assert result.manifest["report"]["halved"] == graph.counts()["DEQUANTIZE"]


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
def test_the_type_of_the_ports_is_ones_own_choice(io: str, tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), "int8", io=io)
    assert result.verdict.status == "verified"
    graph = graph_of(result)
    for places, declared in (
        (graph.inputs, result.manifest["inputs"]),
        (graph.outputs, result.manifest["outputs"]),
    ):
        for port in declared:
            dtype, numbers = graph.numbers(places[port["name"]])
            assert dtype == port["dtype"] == io
            assert (numbers is not None) == (io != "float32")
            assert port.get("quantization") == (list(numbers) if numbers else None)
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}


@pytest.mark.parametrize("per_channel", [True, False])
def test_scales_are_per_channel_or_one(per_channel: bool, tmp_path: Path) -> None:
    graph = graph_of(exported(tmp_path, tiny_cnn(), "int8", per_channel=per_channel, verify=False))
    scales = [
        len(graph.tensors[int(o.inputs[1])].quantization.scale)
        for o in graph.operators
        if graph.kind(o) == "CONV_2D"
    ]
    assert scales
    assert (max(scales) > 1) == per_channel


def test_a_vision_transformer_stays_in_float_between_its_layers(tmp_path: Path) -> None:
    """The softmax of LiteRT in int8 has steps of 1/256, and attention over many patches dies."""
    result = exported(tmp_path, tiny_vit(), "int8")
    assert result.verdict.status == "verified"
    report = result.manifest["report"]
    assert report["in_integers"] in ("layers", "everything")
    noted = any(note.startswith("only layers are in int8") for note in result.notes)
    assert noted == (report["in_integers"] == "layers")


def test_a_fault_of_the_float_file_fails_though_int8_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs scaled by 1.01 are far above the floor of int8, and far below that of fp32."""
    real = exporting.converter.convert

    def convert(*given: Any) -> bytes:
        graph = Graph(real(*given))
        last = graph.producers()[graph.outputs["output"]]
        for tensor in last.inputs[1:]:
            buffer = graph.model.buffers[graph.tensors[int(tensor)].buffer]
            buffer.data = (np.frombuffer(buffer.data, np.float32) * 1.01).view(np.uint8)
        return graph.pack()

    monkeypatch.setattr(exporting.converter, "convert", convert)
    with pytest.raises(VerificationError, match="float file") as caught:
        exported(tmp_path, tiny_cnn(), "dynamic-int8")
    verdict = caught.value.verdict
    assert {m.status for m in verdict.measurements if m.comparison == "file"} == {"passed"}


# ---------------------------------------------------------------- calibration data


def no_images(folder: Path) -> None:
    (folder / "notes.txt").write_text("not an image")


def not_images(folder: Path) -> None:
    for i in range(5):
        (folder / f"{i}.jpg").write_text("not an image")


def too_few(folder: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (80, 80), (i, 0, 0)).save(folder / f"{i}.png")


def broken_in_the_middle(folder: Path) -> None:
    from PIL import Image

    for i in range(5):
        Image.effect_noise((80, 80), 50).convert("RGB").save(folder / f"{i}.png")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_images, "holds no images"),
        (not_images, "cannot read the image .*0.jpg"),
        (too_few, "3 images are too few"),
        (broken_in_the_middle, "cannot read the image .*2.png"),
    ],
)
def test_calibration_data_that_will_not_do(
    make: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the model is converted."""
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder)
    _refused(tmp_path, monkeypatch, folder, message)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 3, 20, 20), np.uint8), "calibration array has shape"),
        (np.zeros((8, *INPUT_SIZE), np.float32), "must be normalised"),
        (np.zeros((0, *INPUT_SIZE), np.uint8), "calibration array has shape"),
    ],
)
def test_calibration_arrays_that_will_not_do(
    array: np.ndarray, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "array.npy", array)
    _refused(tmp_path, monkeypatch, tmp_path / "array.npy", message)


def _refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, message: str) -> None:
    def convert(*_: Any) -> bytes:
        raise AssertionError("the slow part has begun")

    monkeypatch.setattr(exporting.converter, "convert", convert)
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(RequestError, match=message) as caught:
        exported(target, tiny_cnn(), "int8", random_calibration=False, calibration_data=str(data))
    assert "\n" not in caught.value.message
    assert not list(target.iterdir())
