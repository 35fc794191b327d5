"""ONNX files of real models, in the real runtime."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from photo_trials import classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError, RequestError
from timmx_core.files.inspection import CHANGED
from timmx_onnx import metadata, opsets, storage
from timmx_onnx.backend import OnnxBackend

SMALL = {"input_size": (3, 64, 64), "num_classes": 10}


def exported(folder: Path, model: Any = "resnet18", **options: Any) -> timmx_core.ExportResult:
    options = (SMALL if isinstance(model, str) else {}) | options
    return timmx_core.export("onnx", model, output=str(folder / "model.onnx"), **options)


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


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_a_dynamic_batch_is_named_and_verified(tmp_path: Path, model: str) -> None:
    result = exported(tmp_path, model, dynamic_batch=True)
    assert result.verdict.status == "verified"
    assert {m.batch for m in result.verdict.measurements} >= {1, 3}
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "input"
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    assert session.get_outputs()[0].name == "output"
    assert session.get_outputs()[0].shape == ["batch", 10]


def test_a_head_that_was_replaced_has_its_own_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    model.fc = torch.nn.Linear(model.num_features, 5)
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncow\ndog\nemu\n")
    with pytest.raises(RequestError, match="1000 labels for 5 classes"):
        exported(tmp_path, model, labels="imagenet-1k")
    result = exported(
        tmp_path, model, input_size=(3, 64, 64), labels=str(labels), accept_inconclusive=True
    )
    assert result.manifest["model"]["num_classes"] == 5
    assert result.path is not None
    assert timmx_core.verify(result.path).status == result.verdict.status


def test_of_logits_and_a_map_the_logits_become_probabilities(tmp_path: Path) -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, stride=2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.stem(x).relu()
            return {"map": y, "logits": y.mean((2, 3)) * 9}

    torch.manual_seed(0)
    result = exported(tmp_path, Both(), input_size=(3, 32, 32), softmax=True)
    assert result.verdict.status == "verified"
    assert [o["role"] for o in result.manifest["outputs"]] == ["features", "probabilities"]
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, {"input": np.zeros((1, 3, 32, 32), np.float32)})
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)


def test_feature_maps_have_names_of_their_own(tmp_path: Path) -> None:
    result = exported(tmp_path, features=True, num_classes=None)
    names = [output.name for output in onnx.load(result.path).graph.output]
    assert names == [f"features_{i}" for i in range(5)]


def test_the_file_is_valid_and_says_nothing_of_this_machine(tmp_path: Path) -> None:
    result = exported(tmp_path)
    onnx.checker.check_model(str(result.path), full_check=True)
    assert result.path is not None
    model = onnx.load(result.path)
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props.pop("timmx"))["format"] == "onnx"
    assert not props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(timm.__file__).parent).encode() not in result.path.read_bytes()


@pytest.mark.parametrize("opset", range(opsets.OLDEST, opsets.NEWEST + 1))
def test_every_opset_offered_is_written_and_verified(tmp_path: Path, opset: int) -> None:
    result = exported(tmp_path, "test_vit", opset=opset, input_size=None)
    assert result.verdict.status == "verified"
    assert result.path is not None
    assert metadata.read_header(result.path).opset == opset
    assert {i.domain: i.version for i in onnx.load(result.path).opset_import} == {"": opset}


def test_the_range_of_opsets_is_that_of_the_installed_packages() -> None:
    from onnxscript.version_converter import _version_converter as converter
    from torch.onnx._internal.exporter import _constants as constants

    assert constants.TORCHLIB_OPSET == opsets.OLDEST
    assert converter.SUPPORTED_MAX_ONNX_OPSET == opsets.NEWEST
    assert onnx.defs.onnx_opset_version() >= opsets.NEWEST


@pytest.mark.parametrize("opset", [0, 17, 26, 99])
def test_an_opset_that_cannot_be_written_is_refused_before_torch_loads(
    tmp_path: Path, opset: int
) -> None:
    code = (
        "import sys, timmx_core\n"
        "from timmx_core.errors import RequestError\n"
        f"try: timmx_core.export('onnx', 'resnet18', opset={opset})\n"
        "except RequestError as error: print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    message, torch_loaded = done.stdout.strip().splitlines()
    assert "opset" in message
    assert torch_loaded == "False"


def test_attention_is_one_node_at_the_default_opset(tmp_path: Path) -> None:
    attention = torch.nn.functional.scaled_dot_product_attention
    model = Head(lambda x: attention(x, x, x).mean((2, 3))).eval()
    result = exported(tmp_path, model, input_size=(3, 16, 16))
    assert "Attention" in {node.op_type for node in onnx.load(result.path).graph.node}


@pytest.mark.parametrize("external", ["never", "always"])
def test_saved_again_a_model_computes_the_same(tmp_path: Path, external: str) -> None:
    """By onnx, which orders fields anew, with metadata, and with its weights elsewhere."""
    result = exported(tmp_path, "test_resnet", external_data=external, verify=False)
    assert result.path is not None
    model = onnx.load(result.path)
    model.metadata_props.add(key="author", value="me")
    model.producer_name, model.graph.doc_string = "mine", "a comment"
    folder = tmp_path / "again"
    folder.mkdir()
    moved = external == "never"
    onnx.save(
        onnx.shape_inference.infer_shapes(model),
        folder / "mine.onnx",
        save_as_external_data=moved,
        location="mine.data",
        size_threshold=0,
    )
    assert timmx_core.inspect(folder / "mine.onnx").problems == ()
    weights = folder / ("mine.data" if moved else "mine.onnx")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert timmx_core.inspect(folder / "mine.onnx").problems == (CHANGED,)


def test_weights_elsewhere_are_not_read(tmp_path: Path) -> None:
    result = exported(tmp_path, "test_resnet", external_data="always", verify=False)
    assert result.path is not None
    model = onnx.load(result.path, load_external_data=False)
    for location in ("../elsewhere", "/etc/passwd", "a/../../elsewhere", ""):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        onnx.save(model, result.path)
        with pytest.raises(ArtifactError, match="outside of its folder"):
            OnnxBackend().content_digest(result.path)


def test_external_data_lie_beside_the_file_under_a_name_of_their_content(tmp_path: Path) -> None:
    result = exported(tmp_path, external_data="always")
    assert result.verdict.status == "verified"
    (data,) = result.companions
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert data.name == f"model-{digest[:8]}.onnx.data"
    assert result.path is not None
    assert metadata.external_files(result.path) == {data.name}
    onnx.checker.check_model(str(result.path), full_check=True)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"model.onnx", "model.onnx.timmx.json", data.name}


def test_weights_that_are_all_small_stay_in_the_file(tmp_path: Path) -> None:
    head = Head(lambda x: x.mean((2, 3)))
    result = exported(tmp_path, head, input_size=(3, 16, 16), external_data="always")
    assert result.verdict.status == "verified"
    assert result.companions == ()
    assert any("all weights are in the file" in note for note in result.notes)
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "model.onnx.timmx.json"}


def test_a_model_beyond_one_file_goes_into_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LARGEST_FILE", 1_000_000)
    result = exported(tmp_path)
    assert len(result.companions) == 1
    with pytest.raises(RequestError, match="protobuf format holds less than 2 GB"):
        exported(tmp_path, external_data="never", overwrite=True)


def test_both_ways_of_storing_give_the_same_model(tmp_path: Path) -> None:
    loaded = []
    for external in ("never", "always"):
        (tmp_path / external).mkdir()
        result = exported(tmp_path / external, "test_vit", external_data=external, input_size=None)
        model = onnx.load(result.path)
        loaded.append({t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer})
    assert loaded[0].keys() == loaded[1].keys()
    for name, value in loaded[0].items():
        np.testing.assert_array_equal(value, loaded[1][name])


@pytest.mark.parametrize(
    ("operation", "operator"),
    [
        (lambda x: torch.linalg.svdvals(x.flatten(2)), "svd"),
        (torch.special.digamma, "digamma"),
        (lambda x: torch.median(x, dim=1)[0], "median"),
    ],
)
def test_an_operator_that_onnx_lacks_is_named_with_its_module(
    tmp_path: Path, operation: Any, operator: str
) -> None:
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, Head(operation).eval(), input_size=(3, 16, 16))
    assert operator in caught.value.message
    assert "blocks.1 (_Applied)" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_provider_that_no_onnxruntime_has_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="knows no provider 'CUDA'") as caught:
        exported(tmp_path, "test_resnet", provider=("CUDA",))
    assert "CUDAExecutionProvider" in caught.value.hint


def test_a_provider_that_is_not_there_is_not_a_failure(tmp_path: Path) -> None:
    here = onnxruntime.get_available_providers()
    absent = next(name for name in onnxruntime.get_all_providers() if name not in here)
    result = exported(tmp_path, "test_resnet", provider=(absent,), input_size=None)
    assert result.verdict.status == "not verifiable here"
    assert absent in result.verdict.reason
    with pytest.raises(CannotRunHere, match="it has"):
        OnnxBackend().open(result.path, {"provider": (absent,)})


def test_a_truncated_file_is_not_opened(tmp_path: Path) -> None:
    path = exported(tmp_path, "test_resnet", input_size=None).path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ArtifactError):
        OnnxBackend().open(path, {})


def test_the_snippet_runs_the_file(tmp_path: Path) -> None:
    result = exported(tmp_path, dynamic_batch=True)
    scope: dict[str, Any] = {
        "path": str(result.path),
        "x": np.zeros((2, 3, 64, 64), np.float32),
    }
    exec(OnnxBackend().snippet(result.manifest), scope)
    assert [output.shape for output in scope["outputs"]] == [(2, 10)]


def test_the_snippet_of_a_changed_file_says_so(tmp_path: Path) -> None:
    path = exported(tmp_path, verify=False).path
    assert path is not None
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1  # of a weight
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "timmx_core", "inspect", path, "--snippet", "python"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "onnxruntime.InferenceSession" in done.stdout
    told = f"note: {path.name} is not the file that was exported\nnote: {CHANGED}\n"
    assert done.stderr == told


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": True, "softmax": True}, {"uint8_input": True, "nhwc_input": True}],
    ids=["plain", "normalize-softmax", "uint8-nhwc"],
)
def test_photographs_are_classified_as_by_timm(
    tmp_path: Path, lite0_dir: Path, photographs: list[Photograph], options: dict[str, Any]
) -> None:
    whole = {"pretrained": True, "input_size": None, "num_classes": None}
    result = exported(tmp_path, f"local-dir:{lite0_dir}", **whole, **options)
    assert result.verdict.status == "verified"
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, photographs)
    assert classes_of_file(result.path, photographs) == expected
    assert sum(e == p.label for e, p in zip(expected, photographs, strict=True)) == 18
