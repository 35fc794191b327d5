"""The format `openvino`. Light to import: converter and runtime are imported by what needs them."""

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
    Transform,
)
from timmx_core.errors import CannotRunHere, MissingDependency
from timmx_openvino import ir
from timmx_openvino.devices import check_device

INT8 = "int8"


class OpenVinoBackend(Backend):
    """OpenVINO IR: a file of operators, and one of weights."""

    name = "openvino"
    help = "OpenVINO IR, for Intel CPUs, GPUs and NPUs."
    suffixes = (".xml",)
    companion_suffixes = (".bin",)
    precisions = (
        Precision("fp32", "float32", "as the device computes", floor_db=80.0),
        Precision("fp16", "float16", "as the device computes", floor_db=30.0),
        Precision(
            INT8,
            "int8 per channel",
            "int8 in layers, the rest as the device computes",
            floor_db=5.0,
            calibrated=True,
        ),
    )
    options = (
        Option(
            "native_preprocessing",
            "bool",
            "Normalisation, uint8 and NHWC as preprocessing steps of OpenVINO's own; otherwise as "
            "operators of the model.",
            True,
        ),
        Option(
            "ov_device",
            "str",
            "Device that the file is verified on: CPU, GPU, NPU, ...",
            "CPU",
            phase="run",
            metavar="NAME",
        ),
    )
    absorbs = frozenset({"nhwc", "uint8", "normalize"})
    requires = ("openvino>=2026.2",)

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        if importlib.util.find_spec("openvino") is None:
            raise MissingDependency("openvino is not installed", "pip install timmx-openvino")
        quantized = request is not None and request.precision.name == INT8
        if quantized and importlib.util.find_spec("nncf") is None:
            raise MissingDependency(
                "--precision int8 needs nncf, which is not installed",
                'pip install "timmx-openvino[int8]"',
            )

    def absorbed(self, request: ExportRequest) -> frozenset[Transform]:
        """What OpenVINO does by itself, where it is to."""
        return self.absorbs if request.options["native_preprocessing"] else frozenset()

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_openvino.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("openvino") is None:
            raise CannotRunHere("openvino is not installed", "pip install timmx-openvino")

    def check_run_options(self, options: Mapping[str, Any]) -> None:
        """See `Backend.check_run_options`."""
        check_device(options["ov_device"])

    def preload(self) -> None:
        """Import OpenVINO."""
        self.check_run()
        from timmx_openvino.runtime import import_openvino

        import_openvino()

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_openvino.runner import OpenVinoRunner

        return OpenVinoRunner(path, options["ov_device"])

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Put the manifest into the `rt_info` of the IR, as the entry `timmx`."""
        ir.add_manifest(artifact.primary, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        return ir.read_manifest(path)

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: the IR without that entry, and its weights."""
        return ir.content_digest(path)

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        outputs = [output["name"] for output in manifest["outputs"]]
        return (
            "import openvino\n"
            "# Without this hint recent processors compute in bf16.\n"
            'hint = {"INFERENCE_PRECISION_HINT": "f32"}\n'
            'compiled = openvino.Core().compile_model(path, "CPU", hint)\n'
            "given = compiled(x)\n"
            f"outputs = [given[name] for name in {outputs!r}]\n"
        )
