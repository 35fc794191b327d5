"""The table of reference architectures as engines of TensorRT-RTX."""

from __future__ import annotations

from typing import Any

import pytest
from reference_trials import ReferenceRows

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


class TestTensorRtRtx(ReferenceRows):
    """Rows measured again."""

    format = "tensorrt-rtx"
    labels = ("mobilenetv3_small_100",)

    def test_engines_were_built(self, table: dict[str, Any]) -> None:
        """Of all architectures; and the ONNX files they were built of are right."""
        for label, row in table.items():
            assert row["layers"] > 0, label
            assert row["snr_db"] >= row["floor_db"], label
