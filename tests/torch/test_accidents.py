"""What may happen to an export to the formats of torch, and what it leaves behind."""

from accident_trials import AccidentTests


class TestTorchExport(AccidentTests):
    """torch.export programs."""

    format = "torch-export"


class TestTorchScript(AccidentTests):
    """TorchScript modules."""

    format = "torchscript"
