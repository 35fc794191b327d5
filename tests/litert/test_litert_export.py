"""LiteRT files of real models, in the real runtime."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_trials import classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.errors import ArtifactError, ExportError
from timmx_core.models.labels import imagenet_labels
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_litert import container, description
from timmx_litert.backend import LiteRTBackend
from timmx_litert.graph import ALIGNMENT, Graph


def exported(folder: Path, model: Any, **options: Any) -> timmx_core.ExportResult:
    options = {"input_size": INPUT_SIZE, "output": str(folder / "model.tflite")} | options
    return timmx_core.export("litert", model, **options)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> timmx_core.ExportResult:
    """A small classifier of a thousand classes, with labels and pixels in NHWC."""
    folder = tmp_path_factory.mktemp("classifier")
    options = {"uint8_input": True, "nhwc_input": True, "softmax": True, "labels": "imagenet-1k"}
    return exported(folder, "test_resnet", input_size=(3, 64, 64), **options)


class Head(torch.nn.Module):
    """A model whose second block does `operation`."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3)
        self.blocks = torch.nn.Sequential(torch.nn.ReLU(), _Applied(operation))

    def forward(self, x: torch.Tensor) -> Any:
        return self.blocks(self.stem(x))


class _Applied(torch.nn.Module):
    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: torch.Tensor) -> Any:
        return self.operation(x)


def test_labels_and_manifest_are_files_that_any_archive_reader_finds(
    classifier: timmx_core.ExportResult,
) -> None:
    assert classifier.verdict.status == "verified"
    assert classifier.path is not None
    with zipfile.ZipFile(classifier.path) as archive:
        assert sorted(archive.namelist()) == [container.LABELS, container.MANIFEST]
        labels = archive.read(container.LABELS).decode().splitlines()
        assert archive.read(container.MANIFEST) == LiteRTBackend().read(classifier.path)
    assert labels == list(imagenet_labels())


def test_the_metadata_name_the_labels_and_the_normalisation(
    classifier: timmx_core.ExportResult,
) -> None:
    graph = graph_of(classifier)
    (entry,) = [m for m in graph.model.metadata if m.name == description.NAME.encode()]
    table = bytes(graph.model.buffers[entry.buffer].data)
    assert table[4:8] == description.IDENTIFIER
    for word in (b"input", b"output", b"probabilities", container.LABELS.encode(), b"image, NHWC"):
        assert word in table
    spec = timmx_core.load_model("test_resnet", input_size=(3, 64, 64)).inputs[0]
    mean, std = description.pixel_normalization(spec)
    pixels = np.array([0.0, 128.0, 255.0])[:, None]
    wanted = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose((pixels - mean) / std, wanted, rtol=1e-6, atol=1e-6)


def test_pixels_with_channels_last_need_no_transpose(classifier: timmx_core.ExportResult) -> None:
    operators = classifier.manifest["report"]["operators"]
    assert "TRANSPOSE" not in operators
    assert graph_of(classifier).numbers(graph_of(classifier).inputs["input"])[0] == "uint8"


def test_buffers_are_aligned_and_no_path_is_in_the_file(
    classifier: timmx_core.ExportResult,
) -> None:
    """Devices read weights where they lie in the file."""
    from ai_edge_litert import schema_py_generated as schema

    assert classifier.path is not None
    data = classifier.path.read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % ALIGNMENT == 0
    assert str(Path(torch.__file__).parent.parent).encode() not in data


def graph_of(result: timmx_core.ExportResult) -> Graph:
    assert result.path is not None
    return Graph(result.path.read_bytes())


@pytest.mark.parametrize(
    ("operation", "operator"),
    [
        (lambda x: torch.linalg.svdvals(x.flatten(2)), "svd"),
        (torch.special.digamma, "digamma"),
    ],
)
def test_an_operator_that_litert_lacks_is_named_with_its_module(
    tmp_path: Path, operation: Any, operator: str
) -> None:
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, Head(operation).eval(), input_size=(3, 16, 16))
    assert operator in caught.value.message
    assert "blocks.1 (_Applied)" in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"precision": "dynamic-int8"}])
def test_a_class_token_is_repeated_for_every_image(tmp_path: Path, options: dict[str, Any]) -> None:
    model = "vit_tiny_patch16_224"
    whole = {"input_size": (3, 32, 32), "num_classes": 10, "model_kwarg": ("depth=2",)}
    result = exported(tmp_path, model, dynamic_batch=True, **whole, **options)
    assert result.verdict.status == "verified"
    assert {m.batch for m in result.verdict.measurements} >= {1, 3}
    assert graph_of(result).tensors[graph_of(result).inputs["input"]].shapeSignature[0] == -1


def test_a_batch_that_is_baked_in_is_refused(tmp_path: Path) -> None:
    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn: Any = tiny_cnn()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.cnn(x)
            return out + torch.arange(out.shape[0])[:, None]

    with pytest.raises(ExportError, match="made for one batch size") as caught:
        exported(tmp_path, Mixing().eval(), dynamic_batch=True)
    assert "--batch-size" in caught.value.hint


def test_a_file_takes_the_shape_that_it_states(tmp_path: Path) -> None:
    """The interpreter would resize any input, and leave reshapes to fail or to lie."""
    result = exported(tmp_path, tiny_cnn(), verify=False)
    assert result.path is not None
    with LiteRTBackend().open(result.path, {}) as runner, pytest.raises(ArtifactError):
        runner.run({"input": np.zeros((2, *INPUT_SIZE), np.float32)})


def test_without_the_archive_the_file_is_known_to_be_cut_off(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), verify=False)
    assert result.path is not None
    whole = result.path.read_bytes()
    with zipfile.ZipFile(result.path) as archive:
        start = min(info.header_offset for info in archive.infolist())
    result.path.write_bytes(whole[:start])
    with pytest.raises(ArtifactError, match="cut off"):
        LiteRTBackend().read(result.path)


@pytest.mark.parametrize("options", [{"normalize": True}, {"uint8_input": True}])
def test_photographs_are_classified_as_by_timm(
    tmp_path: Path, lite0_dir: Path, photographs: list[Photograph], options: dict[str, Any]
) -> None:
    options |= {"pretrained": True, "input_size": None, "nhwc_input": True, "softmax": True}
    result = exported(tmp_path, f"local-dir:{lite0_dir}", **options)
    assert result.path is not None
    assert classes_of_file(result.path, photographs) == classes_of_timm(lite0_dir, photographs)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """No library opens a connection, and those that could are not loaded."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "import timmx_core\n"
        "options = dict(input_size=(3, 64, 64), num_classes=10, output=sys.argv[1])\n"
        "timmx_core.export('litert', 'test_resnet', **options)\n"
        "print(sorted({'tensorflow', 'kagglehub', 'transformers'} & set(sys.modules)))\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "model.tflite")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["[]"], "")


def test_copies_go_and_the_results_stay(tmp_path: Path) -> None:
    """What litert-torch leaves of reshapes and transposes in a transformer."""
    options: dict[str, Any] = {"input_size": (3, 32, 32), "num_classes": 10}
    options |= {"model_kwarg": ("depth=1",), "report": True, "overwrite": True}
    counts = []
    for optimize in (False, True):
        result = exported(tmp_path, "vit_tiny_patch16_224", optimize=optimize, **options)
        assert result.verdict.status == "verified"
        assert result.manifest["report"]["outside_xnnpack"] == {}
        assert any(note.startswith("outside XNNPACK: none") for note in result.notes)
        counts.append(result.manifest["report"]["operators"])
    before, after = counts
    found = result.manifest["report"]["optimised"]
    assert {"keep_mean_dimensions", "unfold_products", "drop_key_transposes"} <= set(found)
    assert after["RESHAPE"] < before["RESHAPE"] / 2
    assert after["TRANSPOSE"] < before["TRANSPOSE"]
    assert all(after[kind] == before[kind] for kind in ("FULLY_CONNECTED", "MEAN", "SOFTMAX"))
