"""Delegates, precisions, batches and reports of ExecuTorch programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import timmx_core
from timmx_core.errors import ExportError, RequestError
from timmx_executorch import program
from timmx_executorch.delegates import DELEGATES, REFUSED

TIMMX = Path(sys.executable).with_name("timmx")
SMALL: dict[str, Any] = {"input_size": (3, 64, 64), "num_classes": 10}


def exported(folder: Path, model: Any = "test_resnet", **options: Any) -> timmx_core.ExportResult:
    return timmx_core.export(
        "executorch", model, output=str(folder / "model.pte"), **(SMALL | options)
    )


def small_cnn() -> torch.nn.Module:
    """What delegates take, in few operators: each is lowered on its own."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    )


# ------------------------------------------------------------------ the default


def test_a_transformer_is_one_part(tmp_path: Path) -> None:
    """Layer norms, attention and selections stay inside the delegate."""
    result = exported(tmp_path, "test_vit", input_size=None)
    report = result.manifest["report"]
    assert result.verdict.status == "verified"
    assert report["delegates"]["xnnpack"]["parts"] == 1
    assert report["portable"] == []
    assert report["planned_memory_mib"] > 0


def test_a_dynamic_batch_has_an_end(tmp_path: Path) -> None:
    """Memory is planned for the largest; without one it would be planned for 65,536 images."""
    result = exported(tmp_path, dynamic_batch=True, batch_max=5)
    assert result.verdict.status == "verified"
    assert result.manifest["inputs"][0]["shape"][0] == [1, 1, 5]
    with pytest.raises(RequestError):
        exported(tmp_path, batch_min=4, batch_max=2)


def test_an_open_batch_is_bounded_and_said_to_be(tmp_path: Path) -> None:
    result = exported(tmp_path, dynamic_batch=True)
    assert result.manifest["inputs"][0]["shape"][0][2] == 16
    assert any("--batch-max" in note for note in result.notes)
    assert result.manifest["report"]["planned_memory_mib"] < 64


def test_the_report_tells_what_stayed_outside_and_why(tmp_path: Path) -> None:
    class Unusual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.head = torch.nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cumsum(self.conv(x), 2) * 0.1
            result: torch.Tensor = self.head(y.mean((2, 3)))
            return result

    torch.manual_seed(0)
    result = exported(tmp_path, Unusual(), input_size=(3, 32, 32), report=True, num_classes=None)
    assert result.verdict.status == "verified"
    found = {row["operator"]: row for row in result.manifest["report"]["portable"]}
    assert found["aten.cumsum.default"]["count"] == 1
    assert result.manifest["report"]["delegates"]["xnnpack"]["parts"] == 2
    assert any(note.startswith("planned memory") for note in result.notes)
    assert any("portable kernel: 1 aten.cumsum" in note for note in result.notes)


def test_an_operator_without_a_kernel_is_named_with_its_module(tmp_path: Path) -> None:
    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(self.conv(x)).mean((2, 3))

    with pytest.raises(ExportError, match=r"bessel_j0.*Unknown"):
        exported(tmp_path, Unknown(), input_size=(3, 32, 32), num_classes=None)


def test_recurrences_of_many_steps_are_refused_at_once(tmp_path: Path) -> None:
    """Written out, they took more memory than the machine had, and the process was killed."""

    class Rows(torch.nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps
            self.rnn = torch.nn.LSTM(3, 5, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x.flatten(2).transpose(1, 2)[:, : self.steps])[0].mean(1)

    few = exported(tmp_path, Rows(6), input_size=(3, 32, 32), num_classes=None)
    assert few.verdict.status == "verified"
    with pytest.raises(
        ExportError, match=r"aten\.lstm\.input, used in model.rnn \(LSTM\): over 400 steps \(402\)"
    ):
        exported(tmp_path, Rows(201), input_size=(3, 32, 32), num_classes=None, overwrite=True)


# ------------------------------------------------------------------ precisions


def test_dynamic_int8_is_smaller(tmp_path: Path) -> None:
    plain = exported(tmp_path / "plain")
    small = exported(tmp_path / "small", precision="dynamic-int8")
    assert small.verdict.status == "verified"
    assert small.size < 0.5 * plain.size  # as float16 would have
    assert small.manifest["report"]["float_snr_db"] > 80


def test_dynamic_int8_of_padded_layers(tmp_path: Path) -> None:
    """XNNPACK does not run such a convolution, which therefore stays in float."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.ZeroPad2d((0, 1, 0, 1)),
        torch.nn.Conv2d(3, 32, 3, 2),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(32, 10, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    result = exported(
        tmp_path, model, input_size=(3, 32, 32), num_classes=None, precision="dynamic-int8"
    )
    assert result.verdict.status == "verified"


def test_int8_calibrates_and_says_how_near_it_came(tmp_path: Path) -> None:
    given = {"precision": "int8", "random_calibration": True, "calibration_samples": 8}
    result = exported(tmp_path, per_channel=False, **given)
    report = result.manifest["report"]
    assert result.verdict.status == "verified"
    assert result.manifest["precision"]["calibration"]["samples"] == 8
    assert report["per_channel"] is False
    assert report["calibration_snr_db"] > 5


# ------------------------------------------------------------------ delegates


@pytest.mark.parametrize(
    ("delegate", "precision"),
    [("coreml", "fp16"), ("vulkan", "fp16"), ("webgpu", "fp32"), ("coreml,xnnpack", "fp32")],
)
def test_what_cannot_run_here_is_compared_up_to_lowering(
    tmp_path: Path, delegate: str, precision: str
) -> None:
    result = exported(
        tmp_path, small_cnn(), num_classes=None, delegate=delegate, precision=precision
    )
    assert result.path is not None
    if result.verdict.status == "verified":  # where its runtime is
        return
    assert result.verdict.status == "not verifiable here"
    rows = result.verdict.measurements
    assert {row.comparison for row in rows} == {"exported program, lowered for xnnpack instead"}
    assert all(row.status == "passed" and (row.snr_db or 0) >= 80 for row in rows)
    first = delegate.split(",", maxsplit=1)[0]
    counts = result.manifest["report"]["delegates"]
    assert list(counts) == delegate.split(",")
    assert counts[first]["operators"] > 0
    assert program.read_header(result.path).delegates[0] in ("CoreMLBackend", "VulkanBackend")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_delegates_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        exported(tmp_path, delegate=name)
    assert REFUSED[name] in caught.value.message
    assert "xnnpack" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delegate": "xnnpack", "precision": "fp16"}, "coreml or vulkan"),
        ({"delegate": "webgpu", "precision": "fp16"}, "coreml or vulkan"),
        ({"delegate": "coreml", "precision": "dynamic-int8"}, "xnnpack"),
        ({"delegate": "coreml,coreml"}, ""),
        ({"delegate": "vulkan,webgpu"}, ""),
        ({"delegate": "xnpack"}, ", ".join(DELEGATES)),
    ],
)
def test_pairs_that_there_are_not(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        exported(tmp_path, **options)
    assert said in caught.value.hint


def test_the_command_line_refuses_before_torch_loads(tmp_path: Path) -> None:
    words = ["executorch", "resnet18", "--delegate", "qnn", "-o", str(tmp_path / "a.pte")]
    done = subprocess.run([TIMMX, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "SDK" in done.stderr
    assert list(tmp_path.iterdir()) == []
