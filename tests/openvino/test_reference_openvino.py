"""The table of reference architectures in docs/formats/openvino.md still holds."""

from reference_trials import ReferenceRows


class TestOpenVino(ReferenceRows):
    format = "openvino"
