"""Nothing that is wrong with an ExecuTorch program gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_executorch.backend import ExecutorchBackend


class TestExecutorch(FaultSuite):
    backend = ExecutorchBackend()
    sampled = 14
