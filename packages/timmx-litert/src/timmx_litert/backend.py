"""The format `litert`. Light to import: converter and runtime are imported by what needs them."""

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
from timmx_litert import container, quantizer
from timmx_litert.request import check_request


class LiteRTBackend(Backend):
    """LiteRT files through litert-torch, run by LiteRT's interpreter."""

    name = "litert"
    help = "LiteRT (.tflite), for Android, iOS and small devices."
    suffixes = (".tflite",)
    precisions = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "float32, or as the device computes", floor_db=30.0),
        Precision("dynamic-int8", "int8", "int8 in layers, ranges found as it runs", floor_db=5.0),
        Precision("int8", "int8", "int8", floor_db=5.0, calibrated=True),
    )
    options = (
        Option(
            "io",
            "str",
            "Type of the input and output (int8 files alone have a choice).",
            "float32",
            choices=("float32", "int8", "uint8"),
        ),
        Option(
            "per_channel",
            "bool",
            "One scale for each output channel of a weight in int8, not one for all.",
            True,
            precisions=("int8", "dynamic-int8"),
        ),
        Option(
            "optimize",
            "bool",
            "Take needless copies out of the graph; what that changes is checked.",
            True,
        ),
        Option(
            "report",
            "bool",
            "Count the operators, and say which of them XNNPACK and a GPU leave out.",
            False,
        ),
    )
    requires = ("litert-torch>=0.10", "ai-edge-litert>=2.3", quantizer.requirement())

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        for module in ("litert_torch", quantizer.module_name()):
            if importlib.util.find_spec(module) is None:
                raise MissingDependency(f"{module} is not installed", "pip install timmx-litert")
        if request is not None:
            check_request(request)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_litert.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise CannotRunHere("ai-edge-litert is not installed", "pip install ai-edge-litert")

    def preload(self) -> None:
        """Import the interpreter."""
        self.check_run()
        import ai_edge_litert.interpreter  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_litert.runner import LiteRTRunner

        return LiteRTRunner(path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Put the manifest into the archive behind the model, with the file of labels."""
        container.add_files(artifact.primary, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        if not path.is_file():
            return None
        try:
            return container.read_manifest(path)
        except container.BadFile as error:
            if path.suffix in self.suffixes:
                raise ArtifactError(f"{path.name} is not a whole LiteRT file: {error}") from error
            return None

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: the flatbuffer, without the archive behind it."""
        if not path.is_file():
            raise ArtifactError(f"{path.name} is missing")
        try:
            return container.content_digest(path)
        except container.BadFile as error:
            raise ArtifactError(f"{path.name} is not a whole LiteRT file: {error}") from error

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        name = manifest["inputs"][0]["name"]
        outputs = [output["name"] for output in manifest["outputs"]]
        return (
            "from ai_edge_litert.interpreter import Interpreter\n"
            "run = Interpreter(model_path=path).get_signature_runner()\n"
            f"results = run(**{{{name!r}: x}})\n"
            f"outputs = [results[name] for name in {outputs!r}]\n"
        )
