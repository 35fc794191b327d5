"""What may happen to an export to ONNX, and what it leaves behind."""

from accident_trials import AccidentTests


class TestOnnx(AccidentTests):
    """One file, and its record."""

    format = "onnx"


class TestOnnxWithExternalData(AccidentTests):
    """Two files, and their record."""

    format = "onnx"
    options = ("--external-data", "always")
    every_signal = True
