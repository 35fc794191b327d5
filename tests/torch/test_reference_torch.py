"""The tables of reference architectures in the formats of torch."""

from reference_trials import ReferenceRows


class TestTorchExport(ReferenceRows):
    """Rows measured again."""

    format = "torch-export"
    labels = ("vit_tiny_patch16_224",)


class TestTorchScript(ReferenceRows):
    """Rows measured again."""

    format = "torchscript"
    labels = ("mobilenetv3_small_100",)
