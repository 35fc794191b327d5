"""The table of reference architectures in ONNX."""

from reference_trials import ReferenceRows


class TestOnnx(ReferenceRows):
    """Rows measured again."""

    format = "onnx"
