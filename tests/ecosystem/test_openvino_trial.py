"""OpenVINO against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino")

from openvino_format import OpenVinoBackend

from timmx_core import api
from timmx_core.errors import OutputError
from timmx_core.testing import BackendContract, ClosedManager, manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn


class TestOpenVino(BackendContract):
    backend = OpenVinoBackend


@pytest.fixture(scope="module")
def manager() -> ClosedManager:
    return manager_of(OpenVinoBackend())


@pytest.mark.parametrize(("model", "pixels"), [("resnet18", False), ("vit_tiny_patch16_224", True)])
def test_real_architectures(
    manager: ClosedManager, tmp_path: Path, model: str, pixels: bool
) -> None:
    result = api.export(
        "openvino",
        model,
        output=tmp_path / "model.xml",
        uint8_input=pixels,
        nhwc_input=pixels,
        dynamic_batch=pixels,
        manager=manager,
    )
    assert result.verdict.label == "verified"
    worst = result.verdict.worst
    assert worst is not None
    assert worst.snr_db is not None
    assert worst.snr_db > 100
    assert [c.name for c in result.companions] == ["model.bin"]
    assert set(result.record["members"]) == {"model.xml", "model.bin"}
    assert api.verify(result.path or "", manager=manager).status == "verified"


def test_a_companion_in_the_way_is_found_before_the_slow_part(
    manager: ClosedManager, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"model\.bin exists already"):
        api.export("openvino", "resnet18", output=tmp_path / "model.xml", manager=manager)
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_weights_of_another_model_fail(manager: ClosedManager, tmp_path: Path) -> None:
    for seed in (0, 1):
        output = tmp_path / f"{seed}.xml"
        api.export(
            "openvino",
            tiny_cnn(seed),
            input_size=INPUT_SIZE,
            output=output,
            verify=False,
            manager=manager,
        )
    (tmp_path / "1.bin").replace(tmp_path / "0.bin")
    verdict = api.verify(tmp_path / "0.xml", manager=manager)
    assert (verdict.status, verdict.reason) == ("failed", "0.bin is not the file that was verified")
    (tmp_path / "0.xml.timmx.json").unlink()
    assert api.verify(tmp_path / "0.xml", manager=manager).status == "failed"
