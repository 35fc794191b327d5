"""What may happen to an export to LiteRT, and what it leaves behind."""

from accident_trials import AccidentTests


class TestLiteRT(AccidentTests):
    """One file, and its record."""

    format = "litert"
