"""Nothing that is wrong with an ExecuTorch program gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_executorch.backend import ExecutorchBackend


class TestExecutorch(FaultSuite):
    backend = ExecutorchBackend()
    margin_db = 18.0  # XNNPACK's softmax has 98 dB
    sampled = 12
