"""The table of reference architectures in docs/formats/ncnn.md still holds."""

from typing import ClassVar

from reference_trials import ReferenceRows


class TestNcnn(ReferenceRows):
    """One that is verified, one that is refused."""

    format = "ncnn"
    labels: ClassVar[tuple[str, ...]] = ("mobilenetv3_small_100", "vit_tiny_patch16_224")
