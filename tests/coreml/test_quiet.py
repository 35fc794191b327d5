"""What is heard of an export to Core ML, whose converter has much to say."""

import pytest
from quiet_trials import QuietTests

pytest.importorskip("coremltools")


class TestCoreML(QuietTests):
    """Core ML packages."""

    format = "coreml"
