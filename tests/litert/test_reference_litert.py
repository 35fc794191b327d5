"""The table of reference architectures in LiteRT."""

from reference_trials import ReferenceRows


class TestLiteRT(ReferenceRows):
    """Rows measured again."""

    format = "litert"
