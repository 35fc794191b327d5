"""The format `coreml`. Light to import: converter, interpreter and runtime come when needed."""

from __future__ import annotations

import importlib.util
import sys
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
from timmx_core.errors import MissingDependency
from timmx_coreml.request import TARGETS, check_request

ON_MACOS = sys.platform == "darwin"


class CoreMLBackend(Backend):
    """Core ML packages; run by Core ML on macOS and by a reference interpreter elsewhere."""

    name = "coreml"
    help = "Core ML packages, for iOS and macOS."
    suffixes = (".mlpackage", ".mlmodel")
    folder_suffixes = (".mlpackage",)
    precisions = (
        Precision("fp16", "float16", "float16", floor_db=30.0),
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("int8", "int8 per channel", "float16", floor_db=5.0),
        Precision("palette6", "6-bit palette", "float16", floor_db=3.0),
        Precision("palette4", "4-bit palette", "float16", floor_db=-10.0),
        Precision("int4", "int4 per block of 32", "float16", floor_db=-10.0),
    )
    refuses = {  # noqa: RUF012 - the contract's own declaration
        "uint8_input": "Core ML takes pixels as images: use --image-input",
    }
    # A classifier gives probabilities.
    implies = {"labels": {"softmax": True}}  # noqa: RUF012
    requires = ("coremltools>=9.0", "numpy<2.4")
    options = (
        Option(
            "convert_to",
            "str",
            "Kind of model: mlprogram, or neuralnetwork for iOS 13 and 14.",
            "mlprogram",
            choices=("mlprogram", "neuralnetwork"),
        ),
        Option(
            "minimum_deployment_target",
            "str",
            "Oldest system that runs the file; by default iOS16, or what the precision needs.",
            choices=TARGETS,
        ),
        Option(
            "source",
            "str",
            "How the model is captured; where one way fails the other is tried.",
            "export",
            choices=("export", "trace"),
        ),
        Option(
            "image_input",
            "bool",
            "Take a Core ML image (RGB or grayscale); mean and std are in the file.",
            False,
        ),
        Option(
            "sizes",
            "str",
            "Further image sizes that the file takes, as 160x160,256x192.",
            metavar="HxW,HxW",
        ),
        Option(
            "size_range",
            "str",
            "Least and greatest image size that the file takes, as 128x128,512x512.",
            metavar="HxW,HxW",
        ),
        Option(
            "compute_units",
            "str",
            "Devices that Core ML may use when it runs the file (on macOS).",
            "cpu-only",
            choices=("all", "cpu-only", "cpu-and-gpu", "cpu-and-ne"),
            phase="run",
        ),
    )

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        if importlib.util.find_spec("coremltools") is None:
            raise MissingDependency("coremltools is not installed", "pip install timmx-coreml")
        _check_numpy()
        if request is not None:
            check_request(request)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_coreml.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`. The interpreter runs wherever torch does."""
        if ON_MACOS:
            self.check_export(None)

    def preload(self) -> None:
        """Import Core ML's bindings, or the interpreter."""
        if ON_MACOS:
            import coremltools  # noqa: F401
        else:
            import timmx_coreml.mil  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        from timmx_coreml import runner

        if ON_MACOS:
            return runner.NativeRunner(path, str(options.get("compute_units") or "cpu-only"))
        return runner.ReferenceRunner(path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Put the manifest into the user-defined metadata, with the key "timmx"."""
        from timmx_coreml.storage import embed

        embed(artifact.primary, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        from timmx_coreml.metadata import read_manifest

        return read_manifest(path)

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: model and weights, without descriptions of any kind."""
        from timmx_coreml.content import content_digest

        return content_digest(path)

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        from timmx_coreml.snippet import lines

        return lines(manifest)


def _check_numpy() -> None:
    from importlib import metadata

    version = metadata.version("numpy")
    if tuple(int(part) for part in version.split(".")[:2]) >= (2, 4):
        raise MissingDependency(
            f"coremltools does not work with numpy {version}", 'pip install "numpy<2.4"'
        )
