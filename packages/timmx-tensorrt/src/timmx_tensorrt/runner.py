"""An engine on the machine's first GPU, in memory that torch holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_core.toolkit.places import read_record
from timmx_tensorrt.builder import Log
from timmx_tensorrt.library import Library

if TYPE_CHECKING:
    import numpy as np
    import torch

TYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32"}


def made_of(path: Path) -> Mapping[str, Any]:
    """What the record beside an engine says that it was made for; empty where there is none."""
    record = read_record(path)
    made = record["manifest"]["report"].get("built") if record else None
    return made if isinstance(made, dict) else {}


class EngineRunner(Runner):
    """One engine, one stream. Ports are found by their names."""

    def __init__(self, library: Library, path: Path) -> None:
        import torch

        if not torch.cuda.is_available():
            raise CannotRunHere(
                "this build of torch has no CUDA, and an engine's memory is torch's",
                "install a build of torch for CUDA",
            )
        trt = library.load()
        log = Log.of(trt, aloud=False)
        self.runtime = trt.Runtime(log)
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise ArtifactError(f"{library.title} cannot load {path.name}: {log.reason}")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise ArtifactError(f"{library.title} cannot run {path.name}: {log.reason}")
        self.log = log
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.outputs = [
            name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        ]
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.name = f"{library.title} {trt.__version__} {torch.cuda.get_device_name()}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`.

        :raises ArtifactError: the engine does not take such inputs, or fails on them.
        """
        import torch

        with torch.cuda.stream(self.stream):
            held: dict[str, torch.Tensor] = {}
            for name, array in inputs.items():
                held[name] = torch.from_numpy(array).cuda(non_blocking=True)
                if not self.context.set_input_shape(name, tuple(array.shape)):
                    raise ArtifactError(
                        f"the engine takes no {name} of {array.shape}: {self.log.reason}"
                    )
            for name in self.outputs:
                held[name] = self._empty(name)
            for name, tensor in held.items():
                self.context.set_tensor_address(name, tensor.data_ptr())
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise ArtifactError(f"the engine failed: {self.log.reason}")
            results = {name: held[name].cpu() for name in self.outputs}
        self.stream.synchronize()
        return {name: tensor.numpy() for name, tensor in results.items()}

    def _empty(self, name: str) -> torch.Tensor:
        import torch

        kind = self.engine.get_tensor_dtype(name).name
        if kind not in TYPES:
            raise ArtifactError(f"output {name} is of {kind}, which timmx does not write")
        shape = tuple(self.context.get_tensor_shape(name))
        return torch.empty(shape, dtype=getattr(torch, TYPES[kind]), device="cuda")

    def __exit__(self, *_: object) -> None:
        """Release the engine and its memory, in the order that TensorRT wants."""
        del self.context, self.engine, self.runtime
