"""The conformance suite on both formats; what needs a GPU says so and is skipped without one."""

from __future__ import annotations

import pytest

from timmx_core.errors import MissingDependency
from timmx_core.testing import BackendContract
from timmx_onnx.backend import OnnxBackend
from timmx_tensorrt.backend import TensorRtBackend
from timmx_tensorrt.library import CLASSIC
from timmx_tensorrt.rtx import TensorRtRtxBackend

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


class TestTensorRtRtx(BackendContract):
    backend = TensorRtRtxBackend
    others = (OnnxBackend,)
    unsupported = (
        {"target": "sm75"},
        {"target": "sm90"},
        {"target": "sm86,sm86"},
        {"onnx_only": True},
        {"workspace": 0},
    )


def _classic_is_missing() -> str:
    try:
        CLASSIC.check()
        TensorRtBackend().check_builder()
    except MissingDependency:
        return "classic TensorRT is not installed"
    except Exception as error:  # noqa: BLE001 - whatever stands in the way
        return str(error)
    return ""


@pytest.mark.skipif(bool(_classic_is_missing()), reason=_classic_is_missing() or "it is here")
class TestTensorRt(BackendContract):
    backend = TensorRtBackend
    others = (OnnxBackend,)
    unsupported = ({"builder_level": 6}, {"onnx_only": True})
    deterministic = False  # which kernels are fastest is measured
