"""TensorRT for RTX against the contract: derived from another format, and not run here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx")

from tensorrt_rtx_format import TensorRtRtxBackend

from timmx_core import api
from timmx_core.errors import PluginError, VerificationError
from timmx_core.testing import BackendContract, ClosedManager, manager_of
from timmx_onnx.backend import OnnxBackend


class TestTensorRtRtx(BackendContract):
    backend = TensorRtRtxBackend
    others = (OnnxBackend,)
    unsupported = ({"target": ("SM75",)},)
    no_transformer = "it has attention kernels for some widths of heads, and 16 is not among them"


@pytest.fixture(scope="module")
def manager() -> ClosedManager:
    return manager_of(TensorRtRtxBackend(), OnnxBackend())


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_an_engine_is_built_and_its_source_measured(
    manager: ClosedManager, tmp_path: Path, model: str
) -> None:
    output = tmp_path / "model.engine"
    result = api.export("tensorrt-rtx", model, output=output, dynamic_batch=True, manager=manager)
    assert result.verdict.status == "not verifiable here"
    assert result.verdict.reason == "there is no NVIDIA driver here"
    rows = result.verdict.measurements
    assert {row.comparison for row in rows} == {"ONNX given to the builder"}
    assert all(row.status == "passed" and (row.snr_db or 0) > 90 for row in rows)
    assert result.manifest["inputs"][0]["shape"][0] == [1, 1, 64]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.engine", "model.engine.timmx.json"]
    inspection = api.inspect(output, manager=manager)
    assert not inspection.embedded
    assert inspection.intact
    assert api.verify(output, manager=manager).status == "not verifiable here"


def test_whoever_needs_a_verdict_gets_an_error_and_no_file(
    manager: ClosedManager, tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match="no NVIDIA driver"):
        api.export(
            "tensorrt-rtx",
            "resnet18",
            output=tmp_path / "model.engine",
            require_verified=True,
            manager=manager,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_format_it_derives_from_is_missed_before_the_slow_part(tmp_path: Path) -> None:
    alone = manager_of(TensorRtRtxBackend())
    with pytest.raises(PluginError, match="'onnx'"):
        api.export("tensorrt-rtx", "resnet18", output=tmp_path / "model.engine", manager=alone)
    assert list(tmp_path.iterdir()) == []
