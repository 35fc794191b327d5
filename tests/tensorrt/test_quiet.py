"""What is heard of an export to TensorRT-RTX."""

import pytest
from quiet_trials import QuietTests

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")


class TestTensorRtRtx(QuietTests):
    """Its libraries print from Python and from C."""

    format = "tensorrt-rtx"
    also = (
        r"verdict  not verifiable here: .*| +not of the file, but of '[\w ]+': SNR .*"
        r"|note: the engine is for .*"
    )
