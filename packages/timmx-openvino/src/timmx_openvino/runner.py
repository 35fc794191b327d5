"""An IR in OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_openvino.runtime import cause, import_openvino

if TYPE_CHECKING:
    import numpy as np

# Recent processors compute in bf16 unless told otherwise; what is measured is the file.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoRunner(Runner):
    """One compiled model."""

    def __init__(self, path: Path, device: str) -> None:
        """Compile it.

        :param device: as OpenVINO names it: "CPU", "GPU.1".
        :raises CannotRunHere: there is no such device.
        :raises ArtifactError: OpenVINO refuses the file.
        """
        ov = import_openvino()
        core = ov.Core()
        # Plugins of devices that are not there may fail in any way when they are asked.
        here = ["CPU"] if device == "CPU" else core.available_devices
        if device not in here:
            raise CannotRunHere(f"OpenVINO sees no {device} here", f"it sees {', '.join(here)}")
        try:
            self.compiled = core.compile_model(path, device, EXACT)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot load {path.name}: {cause(error)}") from error
        self.name = f"OpenVINO {ov.__version__.partition('-')[0]} {device}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        return {k.get_any_name(): v.copy() for k, v in self.compiled(dict(inputs)).items()}
