"""What may happen to an export to ONNX, and what it leaves behind."""

from accident_trials import AccidentTests, AllAccidents


class TestOnnx(AccidentTests):
    """One file, and its record."""

    format = "onnx"


class TestOnnxWithExternalData(AllAccidents):
    """Two files, and their record."""

    format = "onnx"
    options = ("--external-data", "always")
