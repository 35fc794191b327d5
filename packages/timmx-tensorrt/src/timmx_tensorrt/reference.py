"""The ONNX file of `--onnx-only` in onnxruntime, which is not what its users will run."""

from __future__ import annotations

from pathlib import Path

from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_onnx.providers import CPU
from timmx_onnx.runner import OnnxRunner


class OnnxReference(OnnxRunner):
    """A reference: TensorRT takes the same operators, and computes them with other kernels."""

    kind = "reference"

    def __init__(self, path: Path) -> None:
        try:
            # With its own fusions onnxruntime 1.32 takes float8 for int8, and signed for unsigned.
            super().__init__(path, (CPU,), fuse=False)
        except ArtifactError as error:
            # Of bfloat16 it has the operators, and few kernels.
            if type(error.__cause__).__name__ == "NotImplemented":
                raise CannotRunHere(
                    f"onnxruntime has no kernels for {path.name}",
                    "build an engine of it, and run `timmx verify ENGINE --built-from "
                    f"{path.name}` where the GPU is",
                ) from error
            raise
