"""Nothing that is wrong with a LiteRT file gets past the verification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fault_suite import FaultSuite

from timmx_litert.backend import LiteRTBackend


class TestLiteRT(FaultSuite):
    backend = LiteRTBackend()
    sampled: ClassVar[int] = 9
    impossible: ClassVar[Mapping[str, str]] = {
        "float64 outputs": "the converter makes float32 of them, and there is no fault left",
        "first of the batch repeated": "the graph has a constant of the batch size, and is refused",
    }
