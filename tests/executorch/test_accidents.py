"""What may happen to an export to ExecuTorch, and what it leaves behind."""

from accident_trials import AccidentTests


class TestExecutorch(AccidentTests):
    """One file, and its record."""

    format = "executorch"
