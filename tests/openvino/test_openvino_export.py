"""OpenVINO files of real models, in the real runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from photo_trials import calibration_folder, classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.backend import Artifact
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError, MissingDependency
from timmx_core.files.inspection import CHANGED
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn, tiny_vit
from timmx_openvino import export as exporting
from timmx_openvino.backend import OpenVinoBackend
from timmx_openvino.ir import read_manifest

PIXELS = {"uint8_input": True, "nhwc_input": True}
CALIBRATED = {"precision": "int8", "random_calibration": True, "calibration_samples": 12}


def exported(folder: Path, model: Any, **options: Any) -> timmx_core.ExportResult:
    given = {"output": str(folder / "model.xml")} | options
    if not isinstance(model, str):
        given = {"input_size": INPUT_SIZE} | given
    return timmx_core.export("openvino", model, **given)


def loaded(result: timmx_core.ExportResult) -> ov.Model:
    assert result.path is not None
    return ov.Core().read_model(result.path)


def kinds(model: ov.Model) -> list[str]:
    return [op.get_type_name() for op in model.get_ops()]


def element_types(model: ov.Model) -> set[str]:
    return {op.get_element_type().get_type_name() for op in model.get_ops() if not op.inputs()}


# ---------------------------------------------------------------- the pair of files


def test_the_ports_have_names_and_sizes(tmp_path: Path) -> None:
    result = exported(tmp_path, "resnet18", input_size=(3, 64, 64), dynamic_batch=True, batch_max=8)
    assert result.verdict.status == "verified"
    assert {m.batch for m in result.verdict.measurements} >= {1, 3}
    model = loaded(result)
    assert [port.get_names() for port in (*model.inputs, *model.outputs)] == [{"input"}, {"output"}]
    assert model.inputs[0].get_partial_shape() == ov.PartialShape("1..8,3,64,64")


def test_an_open_batch_has_no_end(tmp_path: Path) -> None:
    model = loaded(exported(tmp_path, tiny_cnn(), dynamic_batch=True))
    assert model.inputs[0].get_partial_shape() == ov.PartialShape("1..,3,32,32")
    assert model.outputs[0].get_partial_shape()[1] == 10


def test_both_files_are_of_the_record(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn())
    assert [c.name for c in result.companions] == ["model.bin"]
    assert set(result.record["members"]) == {"model.xml", "model.bin"}
    for other in (1,):
        folder = tmp_path / "other"
        folder.mkdir()
        wrong = exported(folder, tiny_cnn(other))
        (wrong.path.parent / "model.bin").replace(tmp_path / "model.bin")
    verdict = timmx_core.verify(tmp_path / "model.xml")
    assert verdict.status == "failed"
    assert verdict.reason.startswith(f"model.bin is not the file that was exported; {CHANGED}; ")
    (tmp_path / "model.xml.timmx.json").unlink()
    assert timmx_core.verify(tmp_path / "model.xml").status == "failed"


def test_the_file_says_nothing_of_this_machine(tmp_path: Path) -> None:
    result = exported(tmp_path, "test_convnext")
    assert result.path is not None
    text = result.path.read_bytes()
    for place in (Path(torch.__file__).parent, Path.home(), tmp_path):
        assert str(place).encode() not in text


# ---------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_pixels_are_taken_either_way(tmp_path: Path, native: bool, precision: str) -> None:
    given = CALIBRATED if precision == "int8" else {}
    result = exported(
        tmp_path, tiny_cnn(), native_preprocessing=native, mean=(0.4, 0.5, 0.6), **PIXELS, **given
    )
    assert result.verdict.status == "verified"
    port = loaded(result).inputs[0]
    assert (port.get_element_type(), list(port.shape)) == (ov.Type.u8, [1, 32, 32, 3])
    steps = ["nhwc", "normalize", "uint8"] if native else []
    assert result.manifest["report"]["preprocessing"] == steps


def test_calibration_floats_fit_where_openvino_normalises(tmp_path: Path) -> None:
    """They are normalised already, and what is quantized is behind the normalisation."""
    floats = np.random.default_rng(0).normal(size=(8, *INPUT_SIZE)).astype(np.float32)
    np.save(tmp_path / "floats.npy", floats)
    result = exported(
        tmp_path,
        tiny_cnn(),
        precision="int8",
        calibration_data=str(tmp_path / "floats.npy"),
        calibration_preprocessed=True,
        **PIXELS,
    )
    assert result.verdict.status == "verified"


# ---------------------------------------------------------------- precisions


def test_fp16_stores_halves_and_takes_floats(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_vit(), precision="fp16")
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}
    model = loaded(result)
    assert "f16" in element_types(model)
    assert model.inputs[0].get_element_type() == ov.Type.f32
    plain = exported(tmp_path, tiny_vit(), overwrite=True)
    assert "f16" not in element_types(loaded(plain))


@pytest.mark.parametrize(("make", "attends"), [(tiny_cnn, False), (tiny_vit, True)])
def test_int8_stores_bytes(tmp_path: Path, make: Any, attends: bool) -> None:
    result = exported(tmp_path, make(), **CALIBRATED)
    assert result.verdict.status == "verified"
    model = loaded(result)
    assert "i8" in element_types(model)
    report = result.manifest["report"]
    assert report["transformer"] == attends
    assert report["quantizers"] == kinds(model).count("FakeQuantize") > 0


def test_a_softmax_behind_the_head_is_no_attention(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), softmax=True, **CALIBRATED)
    assert result.manifest["report"]["transformer"] is False


def test_without_nncf_int8_is_refused_before_torch_loads(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, sys, timmx_core\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'nncf' else find(name, *a)\n"
        "given = dict(precision='int8', random_calibration=True)\n"
        "try: timmx_core.export('openvino', 'resnet18', **given)\n"
        "except timmx_core.MissingDependency as error: print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    message, torch_loaded = done.stdout.splitlines()
    assert "timmx-openvino[int8]" in message
    assert torch_loaded == "False"


# ---------------------------------------------------------------- what cannot be done


class Odd(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3)
        self.inner = torch.nn.Sequential(torch.nn.ReLU(), Singular())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.stem(x))


class Singular(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x.flatten(2))


def test_an_operator_that_openvino_lacks_is_named_with_its_module(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, Odd().eval())
    assert "svd" in caught.value.message
    assert "inner.1 (Singular)" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_not_a_failure(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), ov_device="NPU")
    assert result.verdict.status == "not verifiable here"
    assert result.verdict.reason == "OpenVINO sees no NPU here"
    with pytest.raises(CannotRunHere, match="it sees CPU"):
        OpenVinoBackend().open(result.path, {"ov_device": "NPU"})


def test_what_openvino_does_not_load_is_told(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), verify=False)
    path = result.path
    assert path is not None
    text = path.read_bytes()
    path.write_bytes(text.replace(b'type="Convolution"', b'type="Conviction"', 1))
    with pytest.raises(ArtifactError, match=r"OpenVINO cannot load model\.xml: .*\w"):
        OpenVinoBackend().open(path, {"ov_device": "CPU"})


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), verify=False)
    path = result.path
    assert path is not None
    text = path.read_bytes()
    path.write_bytes(text.replace(b'<timmx value="', b'<timmx value="A', 1))
    with pytest.raises(ArtifactError, match="its manifest is damaged"):
        read_manifest(path)
    path.write_bytes(b'<?xml version="1.0"?>\n<net name="x">\n</net>\n')
    assert read_manifest(path) is None
    with pytest.raises(ExportError, match="no place for the manifest"):
        OpenVinoBackend().embed(Artifact(path, (), ()), b"{}")


def test_nothing_is_quantized_in_a_model_without_layers(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing to quantize"):
        exported(tmp_path, Scaled().eval(), **CALIBRATED)


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x.amax((2, 3)))


def test_telemetry_stays_off() -> None:
    code = (
        "from timmx_openvino.runtime import import_openvino\nimport_openvino()\nimport nncf, sys\n"
        "print([n for n in sys.modules if 'openvino_telemetry' in n and sys.modules[n]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_missing_openvino_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="openvino is not installed"):
        OpenVinoBackend().check_export(None)
    with pytest.raises(CannotRunHere, match="openvino is not installed"):
        OpenVinoBackend().check_run()


# ---------------------------------------------------------------- real weights


# A spoiled file agrees on one in a thousand; of the photographs some are nearly ties.
@pytest.mark.parametrize(("precision", "agree"), [("fp32", 16), ("fp16", 16), ("int8", 7)])
def test_photographs_are_classified_as_by_timm(
    precision: str, agree: int, tmp_path: Path, lite0_dir: Path, photographs: list[Photograph]
) -> None:
    """int8 is calibrated on the first ten, and judged on the others."""
    options: dict[str, Any] = {"pretrained": True, "precision": precision, **PIXELS}
    judged = photographs
    if precision == "int8":
        options["calibration_data"] = calibration_folder(tmp_path, photographs[:10])
        judged = photographs[10:]
    result = exported(tmp_path, f"local-dir:{lite0_dir}", **options)
    assert result.verdict.status == "verified"
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, judged)
    given = classes_of_file(result.path, judged)
    assert sum(a == b for a, b in zip(given, expected, strict=True)) >= agree


def test_a_fault_of_the_float_file_fails_though_int8_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs scaled by 1.01 are far above the floor of int8, and far below that of fp32."""
    real = exporting.convert

    def convert(program: Any, model: Any) -> ov.Model:
        converted = real(program, model)
        result = converted.get_results()[0]
        source = result.input_value(0)
        scaled = ov.opset13.multiply(source, ov.opset13.constant(np.float32(1.01)))
        result.input(0).replace_source_output(scaled.output(0))
        scaled.output(0).get_tensor().set_names({"output"})
        return converted

    monkeypatch.setattr(exporting, "convert", convert)
    with pytest.raises(timmx_core.VerificationError, match="float file") as caught:
        exported(tmp_path, tiny_cnn(), **CALIBRATED)
    verdict = caught.value.verdict
    assert {m.status for m in verdict.measurements if m.comparison == "file"} == {"passed"}
