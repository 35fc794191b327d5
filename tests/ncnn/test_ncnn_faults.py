"""Nothing that is wrong with an ncnn network gets past the verification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fault_suite import FaultSuite

from timmx_ncnn.backend import NcnnBackend

ONE_IMAGE = "a network takes one image"


class TestNcnn(FaultSuite):
    backend = NcnnBackend()
    impossible: ClassVar[Mapping[str, str]] = {
        "dynamic_batch": ONE_IMAGE,
        "batch_size": ONE_IMAGE,
        "float64 outputs": "ncnn has no layer that casts, and the network is refused",
        "features": "ncnn has no layer for an expression that pnnx leaves in this model's maps",
    }
