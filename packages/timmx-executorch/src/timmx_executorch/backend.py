"""The format `executorch`. Light to import: libraries are imported by what needs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Option,
    Precision,
    Runner,
)
from timmx_core.errors import ArtifactError, CannotRunHere, MissingDependency
from timmx_executorch import delegates, program
from timmx_executorch.program import BadProgramError

INSTALL = "pip install timmx-executorch"


class ExecutorchBackend(Backend):
    """ExecuTorch through torch.export, run by its own runtime."""

    name = "executorch"
    help = "ExecuTorch, for phones and embedded boards."
    suffixes = (".pte",)
    precisions = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "float16", floor_db=30.0),
        Precision("int8", "int8 per channel", "int8", floor_db=5.0, calibrated=True),
        Precision("dynamic-int8", "int8 per channel", "int8 in layers, as they come", floor_db=5.0),
    )
    requires = ("executorch>=1.5.1", "torchao>=0.18")
    options = (
        Option(
            "delegate",
            "str",
            f"What runs the program: {', '.join(delegates.DELEGATES)}; several with commas, each "
            "taking what those before it left.",
            delegates.DEFAULT,
            metavar="NAME[,NAME]",
        ),
        Option(
            "per_channel",
            "bool",
            "Quantize weights channel by channel (int8, dynamic-int8).",
            True,
            precisions=("int8", "dynamic-int8"),
        ),
        Option(
            "report",
            "bool",
            "Say how much memory is planned, what each delegate took, and what none took.",
            False,
        ),
    )

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        for module in ("executorch", "torchao"):
            if importlib.util.find_spec(module) is None:
                raise MissingDependency(f"{module} is not installed", INSTALL)
        if request is not None:
            delegates.check_request(request)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_executorch.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("executorch") is None:
            raise CannotRunHere("executorch is not installed", INSTALL)

    def preload(self) -> None:
        """Import the runtime, and torch with it."""
        self.check_run()
        import executorch.runtime  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_executorch.runner import ExecutorchRunner

        return ExecutorchRunner(path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Put the manifest into the program as named data, with the key "timmx"."""
        return program.write_manifest(artifact.primary, manifest)

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        if not path.is_file():
            return None
        if not program.is_program(path):
            if path.suffix in self.suffixes:
                raise ArtifactError(f"{path.name} is not an ExecuTorch program")
            return None
        try:
            return program.read_manifest(path)
        except BadProgramError as error:
            if path.suffix in self.suffixes:
                raise ArtifactError(
                    f"{path.name} is not an ExecuTorch program that can be read: {error}"
                ) from error
            return None

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: the program without that datum and its length."""
        if not path.is_file():
            raise ArtifactError(f"{path.name} is missing")
        try:
            return program.content_digest(path)
        except BadProgramError as error:
            raise ArtifactError(f"{path.name} cannot be read: {error}") from error

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        return (
            "import torch\n"
            "from executorch.runtime import Runtime\n"
            "program = Runtime.get().load_program(path)\n"
            'method = program.load_method("forward")\n'
            "outputs = [o.numpy() for o in method.execute([torch.from_numpy(x)])]\n"
        )
