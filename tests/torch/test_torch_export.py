"""Files of real models, run by torch."""

from __future__ import annotations

import errno
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from photo_trials import calibration_folder, classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError, MissingDependency
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_torch import runner, saving
from timmx_torch.backend import TorchExportBackend, TorchScriptBackend

SMALL = {"input_size": (3, 64, 64), "num_classes": 10}
SUFFIX = {"torch-export": ".pt2", "torchscript": ".pt"}


def exported(
    folder: Path, format: str, model: Any = "resnet18", **options: Any
) -> timmx_core.ExportResult:
    options = (SMALL if isinstance(model, str) else {}) | options
    return timmx_core.export(format, model, output=str(folder / f"m{SUFFIX[format]}"), **options)


def loaded(path: Path) -> Any:
    return torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_a_dynamic_batch_is_verified(tmp_path: Path, format: str, model: str) -> None:
    result = exported(tmp_path, format, model, dynamic_batch=True)
    assert result.verdict.status == "verified"
    assert {m.batch for m in result.verdict.measurements} >= {1, 3}
    assert result.path is not None
    module = loaded(result.path)
    for batch in (1, 2, 5):
        assert module(torch.zeros(batch, 3, 64, 64)).shape == (batch, 10)


@pytest.mark.parametrize("options", [{}, {"method": "script"}, {"precision": "fp16"}])
def test_maps_come_in_the_order_that_they_are_asked_for(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    format = "torch-export" if "precision" in options else "torchscript"
    result = exported(
        tmp_path, format, "test_resnet", out_indices=(3, 1), num_classes=None, **options
    )
    assert result.verdict.status == "verified"
    assert result.path is not None
    outputs = result.manifest["outputs"]
    assert [(o["shape"], o["stride"]) for o in outputs] == [
        ([1, 192, 4, 4], 16),
        ([1, 32, 16, 16], 4),
    ]
    maps = loaded(result.path)(torch.zeros(1, 3, 64, 64))
    assert [list(m.shape) for m in maps] == [o["shape"] for o in outputs]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_narrow_precision_keeps_float32_ports(tmp_path: Path, precision: str) -> None:
    size = exported(tmp_path, "torch-export").size
    result = exported(tmp_path, "torch-export", precision=precision, overwrite=True)
    assert result.verdict.status == "verified"
    assert result.path is not None
    program = torch.export.load(result.path)
    dtypes = {p.dtype for p in program.parameters()}
    assert dtypes == {{"fp16": torch.float16, "bf16": torch.bfloat16}[precision]}
    assert program.module()(torch.zeros(1, 3, 64, 64)).dtype == torch.float32
    assert result.size < 0.75 * size


def test_normalisation_stays_in_float32(tmp_path: Path) -> None:
    options = {"precision": "bf16", "uint8_input": True, "softmax": True}
    result = exported(tmp_path, "torch-export", **options)
    assert result.path is not None
    program = torch.export.load(result.path)
    assert {b.dtype for n, b in program.named_buffers() if n in ("scale", "shift")} == {
        torch.float32
    }


@pytest.mark.parametrize("options", [{}, {"freeze": True}, {"method": "script"}])
def test_every_way_to_torchscript(tmp_path: Path, options: dict[str, Any]) -> None:
    result = exported(tmp_path, "torchscript", features=True, num_classes=None, **options)
    assert result.verdict.status == "verified"
    assert len({m.output for m in result.verdict.measurements}) == 5


def test_a_frozen_file_has_no_parameters(tmp_path: Path) -> None:
    result = exported(tmp_path, "torchscript", freeze=True)
    assert result.path is not None
    assert not list(loaded(result.path).parameters())


def test_the_manifest_is_an_extra_file(tmp_path: Path) -> None:
    for format in SUFFIX:
        result = exported(tmp_path, format)
        with zipfile.ZipFile(result.path) as zipped:
            (name,) = (n for n in zipped.namelist() if n.endswith("extra/timmx.json"))
            assert json.loads(zipped.read(name)) == json.loads(json.dumps(result.manifest))


def test_a_program_says_nothing_of_this_machine(tmp_path: Path) -> None:
    result = exported(tmp_path, "torch-export")
    assert result.path is not None
    assert str(Path(timm.__file__).parent).encode() not in result.path.read_bytes()


class Branching(torch.nn.Module):
    """What neither can be captured nor scripted."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Branches on a value."""
        if image.sum() > 0:
            return image.mean((2, 3))
        return image.amax((2, 3))


def test_a_decision_that_a_trace_froze_is_told(tmp_path: Path) -> None:
    """With the place; shapes and constants that became Python values are the same for all."""
    size = {"input_size": (3, 16, 16)}
    result = exported(tmp_path, "torchscript", Deciding(), **size)
    (note,) = (n for n in result.notes if "the trace follows one image" in n)
    line = Deciding.forward.__code__.co_firstlineno + 7
    assert f"(test_torch_export.py:{line} forward)" in note
    assert "--method script" in note
    scripted = exported(
        tmp_path, "torchscript", Branching(), method="script", overwrite=True, **size
    )
    assert not any("the trace follows" in n for n in scripted.notes)


class Deciding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Asks about a shape, about a weight, and about the image."""
        result = image.mean((2, 3))
        if image.shape[2] == image.shape[3]:
            result = result * 2
        if self.scale.sum() > 0:
            result = result * self.scale
        if result.sum() > 1e-3:
            return result
        return image.amax((2, 3))


class Unscriptable(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        total = sum(c.mean((1, 2)) for c in image.unbind(1))
        return torch.stack([torch.as_tensor(total)], 1)


def test_what_cannot_be_captured_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"test_torch_export\.py"):
        exported(tmp_path, "torch-export", Branching(), input_size=(3, 16, 16))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_scripted_is_explained(tmp_path: Path) -> None:
    options = {"method": "script", "input_size": (3, 16, 16)}
    with pytest.raises(ExportError, match=r"torch\.jit\.script cannot convert") as caught:
        exported(tmp_path, "torchscript", Unscriptable(), **options)
    assert caught.value.hint == "use --method trace"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", SUFFIX)
def test_the_snippet_runs_the_file(tmp_path: Path, format: str) -> None:
    result = exported(tmp_path, format, dynamic_batch=True)
    backend = TorchExportBackend() if format == "torch-export" else TorchScriptBackend()
    scope: dict[str, Any] = {"path": str(result.path), "x": np.zeros((2, 3, 64, 64), np.float32)}
    snippet = backend.snippet(result.manifest)
    exec(snippet, scope)
    assert [output.shape for output in scope["outputs"]] == [(2, 10)]


def test_a_device_that_is_not_there_is_not_a_failure(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = exported(tmp_path, "torchscript", run_device="cuda")
    assert result.verdict.status == "not verifiable here"
    with pytest.raises(CannotRunHere):
        TorchScriptBackend().open(result.path, {"run_device": "cuda"})


@pytest.mark.parametrize("format", SUFFIX)
def test_a_truncated_file_is_not_opened(tmp_path: Path, format: str) -> None:
    path = exported(tmp_path, format, "test_resnet", input_size=None).path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-5000])
    backend = TorchExportBackend() if format == "torch-export" else TorchScriptBackend()
    with pytest.raises(ArtifactError):
        backend.open(path, {})


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("torch-export", {}),
        ("torch-export", {"uint8_input": True, "nhwc_input": True}),
        ("torchscript", {"normalize": True, "softmax": True}),
    ],
    ids=["plain", "uint8-nhwc", "normalize-softmax"],
)
def test_photographs_are_classified_as_by_timm(
    tmp_path: Path,
    lite0_dir: Path,
    photographs: list[Photograph],
    format: str,
    options: dict[str, Any],
) -> None:
    whole = {"pretrained": True, "input_size": None, "num_classes": None}
    result = exported(tmp_path, format, f"local-dir:{lite0_dir}", **whole, **options)
    assert result.verdict.status == "verified"
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, photographs)
    assert classes_of_file(result.path, photographs) == expected


RANDOM = {"random_calibration": True, "calibration_samples": 5}


@pytest.mark.parametrize(
    "options", [{"batch_size": 3}, {"dynamic_batch": True}, {"features": True}]
)
def test_int8_stores_integers_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    pytest.importorskip("torchao")
    if "features" in options:
        options = options | {"num_classes": None}
    plain = exported(tmp_path, "torch-export", **options).size
    result = exported(
        tmp_path, "torch-export", precision="int8", overwrite=True, **RANDOM, **options
    )
    assert result.verdict.status == "verified"
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}
    assert result.path is not None
    assert result.size < 0.4 * plain  # two bytes would be half
    assert timmx_core.verify(result.path).status == "verified"
    weights = torch.export.load(result.path).state_dict
    assert not [n for n, w in weights.items() if w.is_floating_point() and w.ndim == 4]


def test_int8_without_torchao_is_refused_before_torch_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "torchao" or None)
    with pytest.raises(MissingDependency) as caught:
        timmx_core.export("torch-export", "resnet18", precision="int8", **RANDOM)
    assert "timmx-torch[int8]" in caught.value.hint


def test_int8_of_what_has_no_layer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ExportError, match="no layer"):
        exported(tmp_path, "torch-export", module, precision="int8", input_size=(3, 8, 8), **RANDOM)


def test_photographs_in_int8(
    tmp_path: Path, lite0_dir: Path, photographs: list[Photograph]
) -> None:
    """Calibrated on the first ten, and judged on the others."""
    pytest.importorskip("torchao")
    calibration = calibration_folder(tmp_path, photographs[:10])
    whole = {"pretrained": True, "input_size": None, "num_classes": None}
    result = exported(
        tmp_path,
        "torch-export",
        f"local-dir:{lite0_dir}",
        precision="int8",
        calibration_data=calibration,
        **whole,
    )
    assert result.path is not None
    expected = classes_of_timm(lite0_dir, photographs[10:])
    given = classes_of_file(result.path, photographs[10:])
    assert sum(a == b for a, b in zip(given, expected, strict=True)) >= 7


# In a process of its own: what it guards against ends the process.
FULL_DISK = """
import errno, sys, torch
from pathlib import Path
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_torch import runner, saving

import io
module, example = torch.nn.Linear(300, 300), (torch.ones(1, 300),)
program = torch.export.export(module, example)
script = torch.jit.trace(module, example)
for save, made in ((saving.save_program, program), (saving.save_script, script)):
    for room in (0, 100, 5_000, 300_000, 361_000):
        class Disk(io.BytesIO):
            left = room
            def write(self, data):
                self.left -= memoryview(data).nbytes
                if self.left < 0: raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(data)
        disk = Disk()
        class Here:
            def open(self, *_, **__): return disk
        try: save(made, Here(), {})
        except OSError as error: print(error.errno)
        else: print("no error", room)
    # /dev/full is on every Linux.
    try: save(made, Path("/dev/full"), {})
    except OSError as error: print(error.errno)
"""


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(errno.ENOSPC)] * 12


def test_a_file_handed_to_torch_raises_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), saving.writing(tmp_path / "x"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), saving.writing(tmp_path / "missing" / "x"):
        pass


def test_files_run_in_full_precision() -> None:
    """Whatever the process has set: TensorFloat-32 would cost what fp32 promises."""
    seen: list[str] = []

    def call(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return x

    made = runner.TorchRunner.__new__(runner.TorchRunner)
    made.inputs, made.outputs, made.call, made.device = ["input"], ["output"], call, "cpu"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        made.run({"input": np.zeros((1, 3), np.float32)})
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_cnn()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        logits = self.model(x)
        return {"z": logits, "a": [torch.relu(logits)]}


def test_a_mapping_of_outputs_is_traced_as_a_tuple(tmp_path: Path) -> None:
    result = timmx_core.export(
        "torchscript", Nested(), input_size=INPUT_SIZE, output=tmp_path / "nested.pt"
    )
    assert result.verdict.status == "verified"
    assert len(result.manifest["outputs"]) == 2
