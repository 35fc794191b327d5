"""An ExecuTorch program in the ExecuTorch runtime. Everything here imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_executorch.lowering import METHOD, PORTS
from timmx_executorch.program import BadProgramError, Header, read_header


class ExecutorchRunner(Runner):
    """One loaded program. Its ports are those that it names itself."""

    def __init__(self, path: Path) -> None:
        from executorch.runtime import Runtime
        from executorch.version import __version__

        try:
            header = read_header(path)
        except BadProgramError as error:
            raise ArtifactError(
                f"{path.name} is not a whole ExecuTorch program: {error}"
            ) from error
        if PORTS not in header.methods or METHOD not in header.methods:
            raise ArtifactError(f"{path.name} names no inputs and outputs: timmx did not write it")
        runtime = Runtime.get()
        check_delegates(header, runtime.backend_registry.registered_backend_names)
        try:
            self.program = runtime.load_program(path)
            self.inputs, self.outputs = parse_ports(self.program.load_method(PORTS).execute([]))
            self.method = self.program.load_method(METHOD)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtifactError(f"ExecuTorch cannot load {path.name}: {reason}") from error
        version = ".".join(__version__.split("+")[0].split(".")[:2])
        ways = " ".join(sorted(name.removesuffix("Backend") for name in header.delegates))
        self.name = f"executorch {version} {ways or 'portable'}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        arrays = (np.ascontiguousarray(inputs[name]) for name in self.inputs)
        values = self.method.execute([torch.from_numpy(array) for array in arrays])
        return {n: v.numpy() for n, v in zip(self.outputs, values, strict=True)}

    def __exit__(self, *_: object) -> None:
        """Release the program and its memory."""
        del self.method, self.program


def check_delegates(header: Header, registered: list[str]) -> None:
    """Refuse a program for delegates that this runtime does not have.

    :raises CannotRunHere: names them.
    """
    missing = [name for name in header.delegates if name not in registered]
    if missing:
        raise CannotRunHere(
            f"the ExecuTorch runtime of this machine has no {' and no '.join(missing)}",
            f"it has {', '.join(sorted(registered))}",
        )


def parse_ports(values: Any) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs, from what the program says of itself.

    :raises ArtifactError: it is not what timmx writes.
    """
    broken = ArtifactError(f"the program's method {PORTS} does not name its ports")
    try:
        (text,) = values
        ports = json.loads(text)
        found = ports["inputs"], ports["outputs"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise broken from error
    if not all(isinstance(n, list) and all(isinstance(i, str) for i in n) for n in found):
        raise broken
    return found
