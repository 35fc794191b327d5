"""The format `onnx`. Light to import: converter and runtime are imported by what needs them."""

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
from timmx_onnx import metadata
from timmx_onnx.opsets import DEFAULT, check_opset
from timmx_onnx.providers import CPU, EXACT_PRODUCTS, check_names
from timmx_onnx.wire import WireError

IN_INTEGERS = ("int8", "dynamic-int8")


class OnnxBackend(Backend):
    """ONNX through torch.onnx, run by onnxruntime."""

    name = "onnx"
    help = "ONNX, for onnxruntime and many others."
    suffixes = (".onnx",)
    hashed_companion_suffixes = (metadata.DATA_SUFFIX,)
    precisions = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "float16", floor_db=30.0),
        Precision("int8", "int8 per channel", "uint8", floor_db=5.0, calibrated=True),
        Precision(
            "dynamic-int8",
            "int8 per channel",
            "uint8 in matrix products, float32 in convolutions",
            floor_db=5.0,
        ),
    )
    requires = ("onnx>=1.20", "onnxruntime>=1.24", "onnxscript>=0.7")
    options = (
        Option("opset", "int", "Version of the ONNX operators.", DEFAULT, minimum=1),
        Option(
            "external_data",
            "str",
            "Weights in a file of their own: auto is where the model has over 2 GB.",
            "auto",
            choices=("auto", "always", "never"),
        ),
        Option(
            "calibration_method",
            "str",
            "How the ranges of activations follow from the calibration images (int8).",
            "percentile",
            choices=("percentile", "minmax", "entropy"),
            precisions=("int8",),
        ),
        Option(
            "provider",
            "str",
            "Execution provider that the file is verified with.",
            (CPU,),
            multiple=True,
            phase="run",
            metavar="NAME",
        ),
    )

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        for module in ("onnx", "onnxscript"):
            if importlib.util.find_spec(module) is None:
                raise MissingDependency(f"{module} is not installed", "pip install timmx-onnx")
        if request is not None:
            check_opset(request.options["opset"])

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_onnx.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise CannotRunHere("onnxruntime is not installed", "pip install onnxruntime")

    def check_run_options(self, options: Mapping[str, Any]) -> None:
        """See `Backend.check_run_options`."""
        check_names(options["provider"])

    def preload(self) -> None:
        """Import onnxruntime."""
        self.check_run()
        from timmx_onnx.runner import import_onnxruntime

        import_onnxruntime()

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_onnx.runner import OnnxRunner

        return OnnxRunner(path, options.get("provider") or (CPU,))

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Append the manifest as a `metadata_props` entry with the key "timmx"."""
        metadata.append_manifest(artifact.primary, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        if not path.is_file():
            return None
        try:
            header = metadata.read_header(path)
        except WireError as error:
            if path.suffix in self.suffixes:
                raise ArtifactError(f"{path.name} is not an ONNX file: {error}") from error
            return None
        if not header.has_graph and path.suffix in self.suffixes:
            raise ArtifactError(f"{path.name} is not an ONNX file: it holds no graph")
        return header.manifest if header.has_graph else None

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: graph and weights, without metadata of any kind."""
        if not path.is_file():
            raise ArtifactError(f"{path.name} is missing")
        from timmx_onnx.content import content_digest

        try:
            return content_digest(path)
        except WireError as error:
            raise ArtifactError(f"{path.name} is not an ONNX file: {error}") from error

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        name = manifest["inputs"][0]["name"]
        outputs = [output["name"] for output in manifest["outputs"]]
        options, given = "", ""
        if manifest["precision"]["name"] in IN_INTEGERS:
            entry, value = EXACT_PRODUCTS
            given = ", options"
            options = (
                "options = onnxruntime.SessionOptions()\n"
                "# On x86 processors without VNNI, fast 8-bit products overflow.\n"
                f"options.add_session_config_entry({entry!r}, {value!r})\n"
            )
        return (
            f"import onnxruntime\n{options}"
            f'session = onnxruntime.InferenceSession(path{given}, providers=["{CPU}"])\n'
            f"outputs = session.run({outputs!r}, {{{name!r}: x}})\n"
        )
