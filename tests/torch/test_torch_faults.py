"""Nothing that is wrong with a file of torch's gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_torch.backend import TorchExportBackend, TorchScriptBackend


class TestTorchExport(FaultSuite):
    backend = TorchExportBackend()


class TestTorchScript(FaultSuite):
    backend = TorchScriptBackend()
