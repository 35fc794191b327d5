"""What is heard of an export to the formats of torch."""

from quiet_trials import QuietTests


class TestTorchExport(QuietTests):
    """torch.export programs."""

    format = "torch-export"


class TestTorchScript(QuietTests):
    """TorchScript modules, about which torch warns that they are deprecated."""

    format = "torchscript"
