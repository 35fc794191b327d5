"""Nothing that is wrong with an OpenVINO file gets past the verification."""

from __future__ import annotations

from fault_suite import FaultSuite

from timmx_openvino.backend import OpenVinoBackend


class TestOpenVino(FaultSuite):
    backend = OpenVinoBackend()
