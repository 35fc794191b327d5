"""A network in ncnn, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError
from timmx_core.toolkit.threads import usable_threads
from timmx_ncnn.param import BadParam, read_network

# By which ncnn computes in less than fp32 where the processor can; what is measured is the file.
INEXACT = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


class NcnnRunner(Runner):
    """One network. Broken ones may kill the process: this is for core's worker."""

    def __init__(self, path: Path) -> None:
        """Load it.

        :raises ArtifactError: ncnn refuses it, or would not survive it.
        """
        import ncnn

        try:
            network = read_network(path)
        except BadParam as error:
            raise ArtifactError(f"{path.name} is not an ncnn network: {error}") from error
        self.inputs, self.outputs = network.inputs, network.outputs
        if not self.inputs or not self.outputs:
            raise ArtifactError(f"{path.name} has no input or no output")
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ArtifactError(f"{weights.name} is missing beside {path.name}")
        self.net: Any = ncnn.Net()
        for name in (*INEXACT, "use_vulkan_compute"):
            setattr(self.net.opt, name, False)
        self.net.opt.num_threads = usable_threads()
        if self.net.load_param(str(path)) != 0:
            raise ArtifactError(f"ncnn cannot load {path.name}")
        if self.net.load_model(str(weights)) != 0:
            raise ArtifactError(f"ncnn cannot load {weights.name}")
        self.name = f"ncnn {ncnn.__version__} CPU"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`; a batch is of one image."""
        import ncnn

        with self.net.create_extractor() as extractor:
            for name in self.inputs:
                # Cloned, since a Mat of numpy's memory does not keep it.
                extractor.input(name, ncnn.Mat(np.ascontiguousarray(inputs[name][0])).clone())
            return {name: self._extract(extractor, name) for name in self.outputs}

    def _extract(self, extractor: Any, name: str) -> np.ndarray:
        """:raises ArtifactError: the network cannot be run to there."""
        code, mat = extractor.extract(name)
        if code != 0:
            raise ArtifactError(f"ncnn cannot compute {name}")
        return np.array(mat)[None]
