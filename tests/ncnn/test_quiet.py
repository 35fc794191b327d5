"""What is heard of an export to ncnn."""

from quiet_trials import QuietTests


class TestNcnn(QuietTests):
    """pnnx prints hundreds of lines."""

    format = "ncnn"
