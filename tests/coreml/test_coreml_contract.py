"""The conformance suite on `coreml`."""

from __future__ import annotations

from timmx_core.testing import BackendContract
from timmx_coreml.backend import CoreMLBackend

SMALL = "its weights are too small to compress; test_coreml_export.py has larger ones"


class TestCoreML(BackendContract):
    backend = CoreMLBackend
    unsupported = (
        {"convert_to": "neuralnetwork"},
        {"precision": "int4", "minimum_deployment_target": "iOS17"},
        {"image_input": True, "dynamic_batch": True},
        {"sizes": "160"},
        {"size_range": "256x256,128x128"},
    )
    skip_precisions = dict.fromkeys(("int8", "int4", "palette4", "palette6"), SMALL)
    timeout = 240.0
