"""An ONNX file in onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Runner
from timmx_core.errors import ArtifactError, CannotRunHere
from timmx_core.toolkit.threads import usable_threads
from timmx_onnx.metadata import external_files
from timmx_onnx.providers import EXACT_PRODUCTS
from timmx_onnx.wire import WireError

if TYPE_CHECKING:
    import numpy as np

MOST_NAME = 255  # bytes, on most file systems
# CUDA rounds float32 products to TF32 unless told otherwise.
FULL_PRECISION: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


class OnnxRunner(Runner):
    """One session.

    The file is opened as a user would open it, with all of onnxruntime's optimisations.

    :param fuse: False: without those that replace operators by others of onnxruntime's own.
    """

    def __init__(self, path: Path, providers: Sequence[str], *, fuse: bool = True) -> None:
        onnxruntime = import_onnxruntime()
        check_external_files(path)
        check_providers(providers, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not fuse:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.intra_op_num_threads = usable_threads()
        # Waiting threads sleep: this process shares the machine with the one that waits for it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*EXACT_PRODUCTS)
        try:
            self.session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=[(name, FULL_PRECISION.get(name, {})) for name in providers],
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise ArtifactError(f"onnxruntime cannot load {path.name}: {error}") from error
        for name in providers:
            if name not in self.session.get_providers():
                raise CannotRunHere(f"onnxruntime cannot start {name} on this machine")
        self.outputs = [output.name for output in self.session.get_outputs()]
        version = ".".join(onnxruntime.__version__.split(".")[:2])
        self.name = f"onnxruntime {version} {' '.join(providers)}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Runner.run`."""
        values: list[Any] = self.session.run(self.outputs, dict(inputs))
        return dict(zip(self.outputs, values, strict=True))

    def __exit__(self, *_: object) -> None:
        """Release the session and its memory."""
        del self.session


def import_onnxruntime() -> Any:
    """onnxruntime, with its telemetry off unless the user has decided otherwise.

    Its builds for Linux and macOS since 1.29 send events of every session to Microsoft, and leave
    a file in the temporary folder. It reads the variable when it is imported, and never again.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def check_providers(wanted: Sequence[str], available: Sequence[str]) -> None:
    """Refuse a provider that this build of onnxruntime does not have.

    :raises CannotRunHere: names those that it has.
    """
    for name in wanted:
        if name not in available:
            raise CannotRunHere(
                f"this onnxruntime has no {name}", f"it has {', '.join(sorted(available))}"
            )


def check_external_files(path: Path) -> None:
    """Refuse weights that lie elsewhere than in the model's own folder, or nowhere.

    :raises ArtifactError: names the file.
    """
    try:
        locations = external_files(path)
    except WireError as error:
        raise ArtifactError(f"{path.name} is not an ONNX file: {error}") from error
    folder = path.resolve().parent
    for location in sorted(locations):
        if not is_plain(location):
            raise ArtifactError(
                f"{path.name} refers to weights outside its folder: {location[:80]!r}",
                "timmx opens external data beside the model only",
            )
        target = folder / location
        if target.resolve().parent != folder:
            raise ArtifactError(f"{location}, with the weights of {path.name}, is a link elsewhere")
        if not target.is_file():
            raise ArtifactError(
                f"{path.name} keeps its weights in {location}, and that is not there",
                f"put {location} beside {path.name}",
            )


def is_plain(name: str) -> bool:
    """Whether a name can only mean a file in the folder that it is looked up in."""
    long = len(os.fsencode(name)) > MOST_NAME
    return name not in ("", "..") and Path(name).name == name and "\0" not in name and not long
