"""A LiteRT file in LiteRT's interpreter, on the processor with XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, first_line
from timmx_core.toolkit.threads import usable_threads

if TYPE_CHECKING:
    import numpy as np


class LiteRTRunner(Runner):
    """One interpreter. The file is opened as a user would open it, by its one signature."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self.interpreter = Interpreter(model_path=str(path), num_threads=usable_threads())
            self.interpreter.allocate_tensors()
            self.signature = self.interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"LiteRT cannot load {path.name}: {first_line(error, 300)}"
            ) from error
        details = self.signature.get_input_details()
        self.shapes = {name: port["shape_signature"].tolist() for name, port in details.items()}
        version = ".".join(metadata.version("ai-edge-litert").split(".")[:2])
        self.name = f"LiteRT {version} XNNPACK"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        for name, array in inputs.items():
            if name not in self.shapes:
                raise ArtifactError(f"the file has no input {name}, but {', '.join(self.shapes)}")
            self._check_shape(name, array)
        try:
            return {name: array.copy() for name, array in self.signature(**inputs).items()}
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"LiteRT cannot run the file: {first_line(error, 300)}") from error

    def __exit__(self, *_: object) -> None:
        """Release the interpreter and its memory."""
        del self.signature, self.interpreter

    def _check_shape(self, name: str, array: np.ndarray) -> None:
        """The interpreter resizes whatever it is given; the file says what may be resized."""
        stated = self.shapes[name]
        fits = len(stated) == array.ndim and all(
            want in (-1, have) for want, have in zip(stated, array.shape, strict=True)
        )
        if not fits:
            raise ArtifactError(f"input {name} is {stated}, not {list(array.shape)}")
