"""What is heard of an export to OpenVINO."""

from quiet_trials import QuietTests


class TestOpenVino(QuietTests):
    format = "openvino"
