"""Nothing that is wrong with a LiteRT file gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_litert.backend import LiteRTBackend


class TestLiteRT(FaultSuite):
    backend = LiteRTBackend()
