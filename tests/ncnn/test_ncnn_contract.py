"""The conformance suite on `ncnn`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_ncnn.backend import NcnnBackend


class TestNcnn(BackendContract):
    backend = NcnnBackend
    unsupported = ({"batch_size": 2}, {"dynamic_batch": True})
    no_transformer = "pnnx leaves reshapes of five dimensions, which ncnn has no layer for"
