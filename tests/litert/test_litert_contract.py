"""The conformance suite on `litert`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_litert.backend import LiteRTBackend


class TestLiteRT(BackendContract):
    backend = LiteRTBackend
    no_dynamic_batch = "litert-torch converts one batch size"
