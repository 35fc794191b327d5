"""The conformance suite on `litert`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_litert.backend import LiteRTBackend


class TestLiteRT(BackendContract):
    backend = LiteRTBackend
    unsupported = ({"io": "int8"}, {"per_channel": False, "precision": "fp16"})
