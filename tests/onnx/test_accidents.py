"""What may happen to an export to ONNX, and what it leaves behind."""

from accident_trials import AllAccidents


class TestOnnxWithExternalData(AllAccidents):
    """Two files, and their record: whatever can happen to one can happen to these."""

    format = "onnx"
    options = ("--external-data", "always")
