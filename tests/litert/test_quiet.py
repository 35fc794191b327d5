"""What is heard of an export to LiteRT."""

from quiet_trials import QuietTests


class TestLiteRT(QuietTests):
    """litert-torch prints its progress, and C++ beside it."""

    format = "litert"
