"""Real weights, and photographs from JPEG: what an app would get."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import photo_trials
import pytest

import timmx_core

if TYPE_CHECKING:
    import testdata


@pytest.fixture(scope="module")
def classes(lite0_dir: Path, photographs: list[testdata.Photograph]) -> list[int]:
    """What PyTorch sees in the photographs."""
    return photo_trials.classes_of_timm(lite0_dir, photographs)


def exported(model: Path, folder: Path, **options: Any) -> Path:
    result = timmx_core.export(
        "executorch",
        f"local-dir:{model}",
        pretrained=True,
        output=str(folder / "lite0.pte"),
        **options,
    )
    assert result.verdict.status == "verified"
    assert result.path is not None
    return result.path


def test_fp32_sees_what_pytorch_sees(
    classes: list[int], lite0_dir: Path, photographs: list[testdata.Photograph], tmp_path: Path
) -> None:
    path = exported(lite0_dir, tmp_path)
    assert photo_trials.classes_of_file(path, photographs) == classes


def test_int8_calibrated_on_ten_agrees_on_the_other_ten(
    classes: list[int], lite0_dir: Path, photographs: list[testdata.Photograph], tmp_path: Path
) -> None:
    images = tmp_path / "calibration"
    images.mkdir()
    for photograph in photographs[:10]:
        shutil.copy(photograph.path, images)
    path = exported(lite0_dir, tmp_path, precision="int8", calibration_data=str(images))
    found = photo_trials.classes_of_file(path, photographs[10:])
    assert sum(a == b for a, b in zip(found, classes[10:], strict=True)) >= 7
    report = timmx_core.inspect(path).manifest["report"]
    assert report["float_snr_db"] > 80
    # Ops that XNNPACK left between its parts would be computed in float.
    assert report["delegates"]["xnnpack"]["parts"] == 1
