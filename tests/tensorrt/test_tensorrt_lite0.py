"""Real weights and photographs: what of an int8 engine can be seen without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import photo_trials
import pytest
from PIL import Image

import timmx_core
from timmx_tensorrt.builder import build
from timmx_tensorrt.library import RTX
from timmx_tensorrt.plan import read_header
from timmx_tensorrt.settings import Settings
from timmx_tensorrt.targets import able

if TYPE_CHECKING:
    import testdata

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


def test_int8_is_calibrated_on_ten_and_judged_on_the_others(
    lite0_dir: Path, photographs: list[testdata.Photograph], tmp_path: Path
) -> None:
    onnx = tmp_path / "lite0.onnx"
    result = timmx_core.export(
        "tensorrt-rtx",
        f"local-dir:{lite0_dir}",
        pretrained=True,
        precision="int8",
        calibration_data=photo_trials.calibration_folder(tmp_path, photographs[:10]),
        onnx_only=True,
        output=str(onnx),
    )
    assert all(row.status == "passed" for row in result.verdict.measurements)
    rows = {row.comparison for row in result.verdict.measurements}
    assert rows == {"file", "in simulated int8 arithmetic", "float file"}

    others = photographs[10:]
    wanted = photo_trials.classes_of_timm(lite0_dir, others)
    got = classes_of_onnx(onnx, lite0_dir, others)
    assert sum(a == b for a, b in zip(got, wanted, strict=True)) >= 7

    engine = tmp_path / "lite0.engine"
    built = build(RTX, onnx, engine, Settings(targets=able("int8")), {})
    assert built.types["int8"] > 50
    assert read_header(engine).size < 20e6


def classes_of_onnx(path: Path, folder: Path, photographs: list[testdata.Photograph]) -> list[int]:
    """What onnxruntime makes of the Q/DQ file, with timm's own preprocessing."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for photograph in photographs:
        image = transform(Image.open(photograph.path).convert("RGB"))[None].numpy()
        found.append(int(np.argmax(session.run(None, {"input": image})[0])))
    return found
