"""The conformance suite on `torch-export` and `torchscript`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_torch.backend import TorchExportBackend, TorchScriptBackend


class TestTorchExport(BackendContract):
    backend = TorchExportBackend


class TestTorchScriptTraced(BackendContract):
    backend = TorchScriptBackend


class TestTorchScriptFrozen(BackendContract):
    backend = TorchScriptBackend
    options = {"freeze": True}  # noqa: RUF012 - as the class that it derives from


class TestTorchScriptScripted(BackendContract):
    backend = TorchScriptBackend
    options = {"method": "script"}  # noqa: RUF012
    # torch writes the constants of a module in the order of a set of strings.
    deterministic = False
