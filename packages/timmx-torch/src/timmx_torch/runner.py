"""Files of torch's in torch. Everything here imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_core.toolkit.pytorch import full_precision
from timmx_torch import screening
from timmx_torch.archive import PORTS, BadArchive, opened
from timmx_torch.quantization import register_operators


class TorchRunner(Runner):
    """A callable that takes and gives tensors, under the names that its file states."""

    def __init__(
        self, path: Path, load: Callable[[Path], Callable[..., Any]], name: str, device: str
    ) -> None:
        self.device = device
        self.inputs, self.outputs = read_ports(path)
        try:
            self.call = load(path)
        except ArtifactError:
            raise
        except Exception as error:  # torch's loaders raise whatever they stumble over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtifactError(f"torch cannot load {path.name}: {reason}") from error
        self.name = f"{name} of torch {torch.__version__.partition('+')[0]}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        tensors = [torch.from_numpy(inputs[name]) for name in self.inputs]
        with torch.inference_mode(), full_precision(self.device):
            result = self.call(*tensors)
        values = [tensor.numpy(force=True) for tensor in flatten(result)]
        return dict(zip(self.outputs, values, strict=True))


def open_program(path: Path, device: str) -> TorchRunner:
    """A `.pt2` file.

    :raises CannotRunHere: torch has no such device here.
    :raises ArtifactError: the file is broken, or holds more than a graph and its weights.
    """
    check_device(device)

    def load(path: Path) -> Callable[..., Any]:
        if screening.screen_program(path):
            register_operators()
        program = torch.export.load(path)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        # Guards are generated Python; the shapes that they check are checked by core.
        module = program.module(check_guards=False)
        return lambda x: module(x.to(device))

    return TorchRunner(path, load, "torch.export", device)


def open_script(path: Path, device: str) -> TorchRunner:
    """A TorchScript file.

    :raises CannotRunHere: torch has no such device here.
    :raises ArtifactError: the file is broken, or its program reaches for files.
    """
    check_device(device)

    def load(path: Path) -> Callable[..., Any]:
        screening.screen_script(path)
        loader: Callable[..., Any] = torch.jit.load
        module = loader(path, map_location=device)
        return lambda x: module(x.to(device))

    return TorchRunner(path, load, "TorchScript", device)


def check_device(device: str) -> None:
    """Refuse a device that torch does not have here.

    :raises CannotRunHere: says which.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CannotRunHere(f"torch cannot use the device {device}: {reason}") from error


def read_ports(path: Path) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs, as the file states them.

    :raises ArtifactError: it states none, since timmx did not write it.
    """
    try:
        with opened(path) as archive:
            data = archive.extra_file(PORTS)
    except BadArchive as error:
        raise ArtifactError(f"{path.name} is not an archive of torch's: {error}") from error
    if data is None:
        raise ArtifactError(f"{path.name} names no inputs and outputs: timmx did not write it")
    try:
        ports = json.loads(data)
        inputs, outputs = ports["inputs"], ports["outputs"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: {PORTS} is broken") from error
    if not all(
        isinstance(n, list) and all(isinstance(i, str) for i in n) for n in (inputs, outputs)
    ):
        raise ArtifactError(f"{path.name}: {PORTS} is broken")
    return inputs, outputs


def flatten(result: Any) -> Iterator[torch.Tensor]:
    """A result's tensors in order: a tensor, a sequence, or a mapping of them."""
    if isinstance(result, torch.Tensor):
        yield result
        return
    for value in result.values() if isinstance(result, Mapping) else result:
        yield from flatten(value)
