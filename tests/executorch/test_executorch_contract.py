"""The conformance suite on `executorch`."""

from __future__ import annotations

from typing import ClassVar

from timmx_core.testing import BackendContract
from timmx_executorch.backend import ExecutorchBackend


class TestExecutorch(BackendContract):
    backend = ExecutorchBackend
    unsupported = (
        {"delegate": "qnn"},
        {"delegate": "abacus"},
        {"delegate": "vulkan,webgpu"},
        {"delegate": "xnnpack,xnnpack"},
        {"delegate": "coreml", "precision": "dynamic-int8"},
        {"precision": "fp16"},
    )
    skip_precisions: ClassVar = {"fp16": "the default delegate, XNNPACK, has none here"}
