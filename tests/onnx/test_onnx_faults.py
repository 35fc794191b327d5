"""Nothing that is wrong with an ONNX file gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_onnx.backend import OnnxBackend


class TestOnnx(FaultSuite):
    backend = OnnxBackend()
    sampled = 2
