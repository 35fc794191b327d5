"""The table of reference architectures as engines of TensorRT-RTX."""

from __future__ import annotations

import json

import pytest
from reference_trials import BENCHMARKS, ReferenceRows

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


class TestTensorRtRtx(ReferenceRows):
    """Rows measured again."""

    format = "tensorrt-rtx"
    labels = ("mobilenetv3_small_100",)

    @pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt-rtx-fp16"])
    def test_engines_were_built(self, name: str) -> None:
        """Of all architectures; and the ONNX files they were built of are right."""
        path = BENCHMARKS / "results" / f"reference-{name}.json"
        rows = json.loads(path.read_text())["rows"]
        assert len(rows) == 23
        for label, row in rows.items():
            assert row["layers"] > 0, label
            assert row["snr_db"] >= row["floor_db"], label
