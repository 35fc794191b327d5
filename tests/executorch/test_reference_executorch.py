"""The table of reference architectures in ExecuTorch."""

from reference_trials import ReferenceRows


class TestExecutorch(ReferenceRows):
    """Rows measured again."""

    format = "executorch"
