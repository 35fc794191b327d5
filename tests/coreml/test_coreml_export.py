"""Core ML packages of real models, run by the reference interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import timmx_core
from timmx_core.errors import ExportError, OutputError, RequestError
from timmx_core.files.inspection import CHANGED
from timmx_core.models.labels import unique_labels
from timmx_core.testing.models import INPUT_SIZE, two_outputs
from timmx_coreml.mil import load
from timmx_coreml.mil.package import Package

pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="tests of the interpreter")
SMALL: dict[str, Any] = {"input_size": (3, 64, 64)}


def exported(
    folder: Path, model: Any = "test_resnet", name: str = "model.mlpackage", **options: Any
) -> timmx_core.ExportResult:
    given = SMALL | options
    return timmx_core.export("coreml", model, output=str(folder / name), **given)


def description(result: timmx_core.ExportResult) -> Any:
    assert result.path is not None
    return Package(result.path).description()


@pytest.mark.parametrize("name", ["model.mlpackage", "model.mlmodel"])
def test_saved_again_a_model_computes_the_same(tmp_path: Path, name: str) -> None:
    """By coremltools, which orders maps anew, with an author and a description."""
    from coremltools.models import MLModel

    kind = {"convert_to": "neuralnetwork"} if name.endswith(".mlmodel") else {}
    result = exported(tmp_path, name=name, precision="fp32", verify=False, **kind)
    model = MLModel(str(result.path), skip_model_load=True)
    model.author, model.short_description = "me", "a model"
    model.input_description["input"] = "an image"
    model.user_defined_metadata["licence of the images"] = "none"
    again = tmp_path / "again" / name
    again.parent.mkdir()
    model.save(str(again))
    assert timmx_core.inspect(again).problems == ()
    largest = max((p for p in again.rglob("*.bin")), default=again, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert timmx_core.inspect(again).problems == (CHANGED,)


def test_the_default_is_fp16_for_ios16_and_verified(tmp_path: Path) -> None:
    result = exported(tmp_path)
    assert result.verdict.label == "verified (reference interpreter)"
    assert result.manifest["report"]["minimum_deployment_target"] == "iOS16"
    assert result.manifest["report"]["source"] == "export"
    found = description(result)
    assert [(f.name, f.shape) for f in found.inputs] == [("input", (1, 3, 64, 64))]
    assert [f.name for f in found.outputs] == ["output"]
    assert found.metadata["shortDescription"].startswith("test_resnet")
    assert "mean (0.5, 0.5, 0.5)" in found.inputs[0].description
    assert "conversion_date" not in " ".join(found.user)
    assert json.loads(found.user["timmx"])["format"] == "coreml"
    assert result.path is not None
    files = {str(p.relative_to(result.path)) for p in result.path.rglob("*") if p.is_file()}
    assert files == {
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    }


@pytest.mark.parametrize("target", ["iOS15", "iOS26"])
def test_deployment_targets(tmp_path: Path, target: str) -> None:
    result = exported(tmp_path, "test_vit", input_size=None, minimum_deployment_target=target)
    assert result.verdict.status == "verified"
    versions = {"iOS15": 6, "iOS26": 10}
    assert description(result).version == versions[target]


def test_the_other_way_of_capturing_is_tried_and_recorded(tmp_path: Path) -> None:
    """This model resizes its position embedding with an operator that the first way leaves in."""
    result = exported(tmp_path, "test_vit", input_size=(3, 160, 160), source="trace")
    assert result.manifest["report"]["source"] == "trace"

    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(self.conv(x)).mean((2, 3))

    with pytest.raises(ExportError, match=r"operator .*bessel_j0"):
        exported(tmp_path, Unknown().eval(), name="unknown.mlpackage")
    assert not (tmp_path / "unknown.mlpackage").exists()


@pytest.mark.parametrize("precision", ["int8", "int4", "palette4"])
def test_compressed_files_are_judged_three_ways(tmp_path: Path, precision: str) -> None:
    plain = exported(tmp_path, name="plain.mlpackage")
    result = exported(tmp_path, precision=precision)
    assert result.verdict.status == "verified"
    rows = {m.comparison: m for m in result.verdict.measurements if m.output == "output"}
    assert set(rows) == {"file", "float file", "weights written out"}
    # What the interpreter expands is what the converter itself expands.
    assert (rows["weights written out"].snr_db or 0) > 100
    assert result.manifest["report"]["compressed_weights"] > 5
    assert result.size < 0.75 * plain.size


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_input_takes_pixels(tmp_path: Path, channels: int) -> None:
    result = exported(tmp_path, image_input=True, input_size=(channels, 64, 64))
    assert result.verdict.status == "verified"
    (port,) = description(result).inputs
    assert (port.kind, port.color) == ("image", "RGB" if channels == 3 else "GRAY")
    spec = result.manifest["inputs"][0]
    assert (spec["dtype"], spec["layout"], spec["range"]) == ("uint8", "NHWC", [0.0, 255.0])
    assert not spec["mean"]


def test_image_scale_and_bias_are_exact_for_every_channel(tmp_path: Path) -> None:
    """The same pixels through the image port and, normalised by hand, through the plain one."""
    mean, std = (0.1, 0.5, 0.9), (0.11, 0.27, 0.53)
    given: dict[str, Any] = {"precision": "fp32", "mean": mean, "std": std}
    image = exported(tmp_path, image_input=True, name="image.mlpackage", **given)
    plain = exported(tmp_path, **given)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    x = ((pixels / 255.0 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    assert image.path is not None
    assert plain.path is not None
    got = load(image.path).run({"input": pixels})["output"]
    want = load(plain.path).run({"input": x})["output"]
    # Rounding alone; a scale that is off by one of 255 is off by 4e-3.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4)


def test_images_of_other_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1 or 3 channels"):
        exported(tmp_path, image_input=True, input_size=(5, 64, 64))


def test_labels_make_a_classifier(tmp_path: Path) -> None:
    result = exported(tmp_path, labels="imagenet-1k", image_input=True)
    assert result.verdict.status == "verified"
    found = description(result)
    assert (found.label_output, found.probabilities_output) == ("classLabel", "output")
    assert found.user["com.apple.coreml.model.preview.type"] == "imageClassifier"
    assert result.path is not None
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    answer = load(result.path).run({"input": pixels})
    probabilities = answer["output"]
    assert len(probabilities) == 1000
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)
    assert answer["classLabel"] == max(probabilities, key=probabilities.get)
    assert list(probabilities)[:2] == ["tench, Tinca tinca", "goldfish, Carassius auratus"]


def test_labels_of_one_among_several_outputs_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    given: dict[str, Any] = {"input_size": INPUT_SIZE, "num_classes": None}
    with pytest.raises(RequestError, match="one output, and the model gives 2"):
        exported(tmp_path, two_outputs(), labels=str(labels), **given)


def test_labels_of_one_name_stay_apart() -> None:
    assert unique_labels(["a", "crane", "crane", "b"]) == ["a", "crane", "crane (2)", "b"]
    assert unique_labels(["a", "a", "a (1)"]) == ["a", "a (1)", "a (1) (2)"]


def test_a_dynamic_batch_is_verified_at_several_sizes(tmp_path: Path) -> None:
    result = exported(tmp_path, dynamic_batch=True)
    assert result.verdict.status == "verified"
    assert {m.batch for m in result.verdict.measurements} >= {1, 3}
    assert description(result).inputs[0].sizes[0] == (1, 128)


@pytest.mark.parametrize(
    ("option", "image"),
    [({"sizes": "96x64,128x160"}, True), ({"size_range": "32x32,128x128"}, False)],
    ids=["sizes", "range"],
)
def test_flexible_sizes(tmp_path: Path, option: dict[str, str], image: bool) -> None:
    result = exported(tmp_path, image_input=image, **option)
    assert result.verdict.status == "verified"
    port = description(result).inputs[0]
    assert port.shapes if "sizes" in option else port.sizes
    assert result.path is not None
    shape = (128, 160) if "sizes" in option else (96, 128)
    pixels = np.zeros((*shape, 3), np.uint8) if image else np.zeros((1, 3, *shape), np.float32)
    program = load(result.path)
    assert program.run({"input": pixels})["output"].shape == (1, 1000)
    wrong = np.zeros((200, 200, 3), np.uint8) if image else np.zeros((1, 3, 200, 200), np.float32)
    with pytest.raises(timmx_core.errors.ArtifactError, match="shape"):
        program.run({"input": wrong})


def test_sizes_that_the_model_does_not_allow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="96x96"):
        exported(tmp_path, "test_vit", input_size=None, sizes="96x96")
    assert not list(tmp_path.iterdir())


def test_a_neuralnetwork_cannot_be_verified_here(tmp_path: Path) -> None:
    for name in ("model.mlmodel", "model.mlpackage"):
        result = exported(tmp_path, name=name, convert_to="neuralnetwork", precision="fp32")
        assert result.verdict.status == "not verifiable here"
        assert "neuralnetwork" in result.verdict.reason
        assert description(result).kind == "neuralnetwork"
        assert description(result).user["timmx"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"convert_to": "neuralnetwork"}, "no --precision fp16"),
        ({"convert_to": "neuralnetwork", "precision": "fp32",
          "minimum_deployment_target": "iOS16"}, "for mlprogram"),
        ({"precision": "int4", "minimum_deployment_target": "iOS17"}, "needs iOS18"),
        ({"precision": "palette4", "minimum_deployment_target": "iOS15"}, "needs iOS16"),
        ({"image_input": True, "dynamic_batch": True}, "one image at a time"),
        ({"image_input": True, "nhwc_input": True}, "exclude each other"),
        ({"labels": "imagenet-1k", "batch_size": 2}, "one image at a time"),
        ({"sizes": "96"}, "wants sizes"),
        ({"sizes": "0x96"}, "wants sizes"),
        ({"sizes": "96x96", "size_range": "96x96,128x128"}, "exclude each other"),
        ({"size_range": "128x128,96x96"}, "least and a greatest"),
        ({"sizes": "96x96", "dynamic_batch": True}, "not both"),
        ({"uint8_input": True}, "--image-input"),
        ({"name": "model.mlmodel"}, "mlpackage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_core_ml_cannot_do_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        exported(tmp_path, **options)


def test_sensitive_operators_stay_in_fp32(tmp_path: Path) -> None:
    """Squares of large features overflow in fp16, and their mean brings them back."""

    class Loud(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=2)
            self.head = torch.nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x) * 1000
            y = y * torch.rsqrt(y.square().mean((1, 2, 3), keepdim=True))
            return self.head(y.amax((2, 3)))

    torch.manual_seed(0)
    result = exported(tmp_path, Loud().eval())
    assert result.verdict.status == "verified"
    kept = result.manifest["report"]["kept_in_fp32"]
    assert "reduce_mean" in kept
    assert any("kept in fp32" in note for note in result.notes)


@pytest.mark.parametrize("source", ["export", "trace"])
def test_the_approximation_of_gelu_is_kept(tmp_path: Path, source: str) -> None:
    """Exact in its place, it moved the output by 78 dB's worth, which fp32 must not pass."""
    result = exported(tmp_path, "test_convnext", source=source, precision="fp32")
    (row,) = result.verdict.measurements
    assert (row.snr_db or 0) > 100


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        target = tmp_path / str(number) / "model.mlpackage"
        target.parent.mkdir()
        command = [sys.executable, "-m", "timmx_core", "coreml", "test_resnet", "--no-verify"]
        size = ["--input-size", "3", "64", "64", "--precision", "palette4"]
        subprocess.run([*command, *size, "-o", str(target)], check=True, capture_output=True)
        digests.append({p.name: p.read_bytes() for p in target.rglob("*") if p.is_file()})
    assert digests[0] == digests[1]


def test_the_licence_of_the_weights_is_in_the_metadata(tmp_path: Path) -> None:
    result = exported(tmp_path)
    assert description(result).metadata["license"] == "apache-2.0"


def test_a_folder_of_somebody_s_is_not_replaced(tmp_path: Path) -> None:
    """Whatever it is called: with --overwrite what lies in it would be lost."""
    folder = tmp_path / "model.mlpackage"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="did not write"):
        exported(tmp_path, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    path = exported(tmp_path, overwrite=True).path
    assert path == folder
    assert exported(tmp_path, overwrite=True, verify=False).path == folder
    path.with_name(path.name + ".timmx.json").unlink()  # only it says whose the files are
    with pytest.raises(OutputError, match="did not write"):
        exported(tmp_path, overwrite=True)
