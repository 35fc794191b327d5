"""The conformance suite on `openvino`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_openvino.backend import OpenVinoBackend


class TestOpenVino(BackendContract):
    backend = OpenVinoBackend
