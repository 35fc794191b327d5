"""What is heard of an export to ONNX."""

from quiet_trials import QuietTests


class TestOnnx(QuietTests):
    """ONNX's converter prints a dozen lines."""

    format = "onnx"
