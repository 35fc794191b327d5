"""A file in a runtime: Core ML itself on macOS, the reference interpreter elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_core.toolkit.model import unique_labels
from timmx_coreml.metadata import KEY
from timmx_coreml.mil.package import Description, Package


def manifest_labels(description: Description) -> list[str] | None:
    """The labels in the order of the model's outputs, as the embedded manifest has them."""
    text = description.user.get(KEY)
    labels = json.loads(text).get("labels") if text else None
    return unique_labels(labels) if labels else None


def in_order(
    probabilities: Mapping[Any, float], order: Sequence[str] | None, name: str
) -> np.ndarray:
    """A classifier's dictionary as an array (1, classes) in the order of the model's classes.

    :raises ArtifactError: where the file's labels are not those of its manifest.
    """
    keys = list(probabilities) if order is None else order
    if set(keys) != set(probabilities) or len(keys) != len(probabilities):
        raise ArtifactError(f"the labels of output {name} are not those of the manifest")
    return np.array([[probabilities[key] for key in keys]], dtype=np.float32)


class ReferenceRunner(Runner):
    """The saved program, evaluated by `timmx_coreml.mil`."""

    kind = "reference"

    def __init__(self, path: Path) -> None:
        import torch

        from timmx_coreml.mil import load

        self._program = load(path)
        self._order = manifest_labels(self._program.description)
        self.name = f"reference interpreter on torch {torch.__version__.partition('+')[0]}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        result = {}
        for name, value in self._program.run(inputs).items():
            if isinstance(value, dict):
                result[name] = in_order(value, self._order, name)
            elif isinstance(value, np.ndarray):
                result[name] = value
            else:
                result[name] = np.array([str(value)])
        return result


class NativeRunner(Runner):
    """The file in Core ML."""

    def __init__(self, path: Path, compute_units: str) -> None:
        """Open it.

        :param compute_units: "all", "cpu-only", "cpu-and-gpu" or "cpu-and-ne".
        :raises CannotRunHere: this system is too old for the file.
        :raises ArtifactError: Core ML refuses it.
        """
        import coremltools as ct

        self._description = Package(path).description()
        self._order = manifest_labels(self._description)
        units = ct.ComputeUnit[compute_units.upper().replace("-", "_")]
        self._model = ct.models.MLModel(str(path), compute_units=units)
        if self._model.__proxy__ is None:
            # The bindings only warn of what keeps a file from loading.
            error = self._model._framework_error
            if error is not None:
                raise ArtifactError(f"Core ML cannot load the file: {error}")
            raise CannotRunHere("Core ML of this system is too old for the file")
        self.name = f"Core ML ({compute_units})"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        images = {f.name for f in self._description.inputs if f.kind == "image"}
        given = {n: _picture(a) if n in images else a for n, a in inputs.items()}
        labels = {f.name for f in self._description.outputs if f.kind == "string"}
        result = {}
        for name, value in self._model.predict(given).items():
            if isinstance(value, Mapping):
                result[name] = in_order(value, self._order, name)
            elif name in labels:
                result[name] = np.array([str(value)])
            else:
                result[name] = np.asarray(value)
        return result


def _picture(array: np.ndarray) -> Any:
    """uint8 (1, H, W, 3) or (1, H, W, 1) as the picture that Core ML takes."""
    from PIL import Image

    pixels = array[0]
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
