"""The conformance suite on `onnx`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_onnx.backend import OnnxBackend


class TestOnnx(BackendContract):
    backend = OnnxBackend
    unsupported = ({"opset": 17}, {"opset": 99})
