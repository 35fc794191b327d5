"""What is heard of an export to ExecuTorch."""

from quiet_trials import QuietTests


class TestExecutorch(QuietTests):
    """ExecuTorch's libraries print from Python and from C."""

    format = "executorch"
