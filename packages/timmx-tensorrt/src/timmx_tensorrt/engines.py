"""What the two formats share: precisions, options, and the way to an engine."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
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
from timmx_core.errors import ArtifactError, CannotRunHere, RequestError, VerificationError
from timmx_core.toolkit.content import ContentDigest
from timmx_onnx.metadata import DATA_SUFFIX
from timmx_tensorrt import gpu
from timmx_tensorrt.library import Library
from timmx_tensorrt.settings import Settings

ONNX = ".onnx"
NO_KERNELS = "bf16"  # onnxruntime has the operators, and few that compute
PRECISIONS = (
    Precision("fp32", "float32", "float32", floor_db=80.0),
    Precision("tf32", "float32", "TF32 in products, float32 elsewhere", floor_db=40.0),
    Precision("fp16", "float16", "float16", floor_db=30.0),
    Precision("bf16", "bfloat16", "bfloat16", floor_db=12.0),
    Precision(
        "int8",
        "int8 per channel",
        "int8 in layers, float32 elsewhere",
        floor_db=5.0,
        calibrated=True,
    ),
    Precision(
        "fp8",
        "float8 e4m3 per channel",
        "float8 e4m3 in layers, float32 elsewhere",
        floor_db=5.0,
        calibrated=True,
    ),
)
COMMON_OPTIONS = (
    Option(
        "workspace",
        "int",
        "Memory that a layer of the engine may use while it runs, in MiB.",
        minimum=1,
        unset="the library's own",
    ),
    Option(
        "calibration_method",
        "str",
        "How the ranges of activations follow from the calibration images (int8, fp8).",
        "percentile",
        choices=("percentile", "minmax", "entropy"),
        precisions=tuple(p.name for p in PRECISIONS if p.calibrated),
    ),
    Option(
        "onnx_only",
        "bool",
        "Write the ONNX file that an engine is built of, to -o NAME.onnx, and no engine.",
        False,
    ),
)


class EngineBackend(Backend):
    """A format of engines that are built from ONNX."""

    suffixes = (".engine", ".plan", ONNX)
    hashed_companion_suffixes = (DATA_SUFFIX,)  # of --onnx-only
    precisions = PRECISIONS
    derives = ("onnx",)
    library: Library

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`.

        :raises ExportError: the library builds on a GPU only, and there is none.
        :raises VerificationError: a verdict is required, and no engine can be run here.
        """
        if request is not None:
            self._check_name(request)
            self.check_request(request)
            if request.options["onnx_only"]:
                _check_reference(request)
                return
        self.check_builder()
        if request is not None and request.shared["require_verified"]:
            self._check_verifiable()

    def _check_verifiable(self) -> None:
        """Not after minutes of building.

        :raises VerificationError: an engine cannot be run here.
        """
        try:
            self.check_run()
        except CannotRunHere as error:
            raise VerificationError(
                f"not verifiable here: {error.message}",
                "leave --require-verified out, and run `timmx verify` where the GPU is",
            ) from None

    def _check_name(self, request: ExportRequest) -> None:
        """Engines and ONNX files are told apart by their names."""
        output = request.shared["output"]
        is_onnx = output is not None and Path(output).suffix == ONNX
        if request.options["onnx_only"] and not is_onnx:
            raise RequestError("--onnx-only writes an ONNX file", "name it: -o model.onnx")
        if is_onnx and not request.options["onnx_only"]:
            raise RequestError(
                f"{self.name} writes an engine, and -o names an ONNX file",
                "-o model.engine; or add --onnx-only",
            )

    @abstractmethod
    def check_request(self, request: ExportRequest) -> None:
        """Raise for what this library does not have.

        :raises RequestError: says what.
        """

    def check_builder(self) -> None:
        """Whether an engine can be built on this machine.

        :raises MissingDependency: without its library it cannot.
        """
        self.library.check()

    @abstractmethod
    def settings(self, request: ExportRequest) -> Settings:
        """What the builder is to be told."""

    @abstractmethod
    def made_on(self, settings: Settings, version: str) -> Mapping[str, Any]:
        """For the manifest: what the engine is for, and what it was built with."""

    @abstractmethod
    def meant_for(self, made: Mapping[str, Any]) -> str:
        """Where an engine of this `made_on` runs, for people."""

    @abstractmethod
    def obstacles(self, path: Path, made: Mapping[str, Any], card: gpu.Gpu) -> list[str]:
        """What keeps an engine from running on this card with this library, in words.

        :param made: what `made_on` said, where it is known.
        """

    @abstractmethod
    def command(self, onnx: str, engine: str, request: ExportRequest, shapes: list[str]) -> str:
        """How NVIDIA's own program builds an engine of the ONNX file elsewhere, for a shell.

        :param shapes: its words about a batch that is dynamic.
        """

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_tensorrt.export import export

        return export(self, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        try:
            gpu.find()
        except gpu.NoGpuError as error:
            raise CannotRunHere(str(error), "run `timmx verify` where the GPU is") from None
        if importlib.util.find_spec(self.library.module) is None:
            raise CannotRunHere(
                f"{self.library.distribution} is not installed", self.library.install
            )

    def preload(self) -> None:
        """Import torch, whose memory is used, and the library."""
        self.check_run()
        import torch  # noqa: F401

        self.library.load()

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        if path.suffix == ONNX:
            from timmx_tensorrt.reference import OnnxReference

            return OnnxReference(path)
        self.check_engine(path)
        self.check_run()
        from timmx_tensorrt.runner import EngineRunner, made_of

        obstacles = self.obstacles(path, made_of(path), gpu.find())
        if obstacles:
            raise CannotRunHere(
                f"{path.name} does not run here: {'; '.join(obstacles)}",
                f"build it again for this machine: timmx {self.name} MODEL",
            )
        return EngineRunner(self.library, path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """See `Backend.embed`: an ONNX file has room, an engine has none."""
        if artifact.primary.suffix != ONNX:
            return False
        from timmx_onnx.backend import OnnxBackend

        return OnnxBackend().embed(artifact, manifest)

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        if path.suffix != ONNX:
            return None
        from timmx_onnx.backend import OnnxBackend

        return OnnxBackend().read(path)

    def content_digest(self, path: Path) -> str | None:
        """See `Backend.content_digest`: an engine as a whole, an ONNX file as its format has it."""
        if path.suffix != ONNX:
            digest = ContentDigest()
            digest.add_file("engine", path)
            return digest.hexdigest()
        from timmx_onnx.backend import OnnxBackend

        return OnnxBackend().content_digest(path)

    def check_engine(self, path: Path) -> None:
        """What can be seen of an engine without a GPU.

        :raises ArtifactError: it is none of this library.
        """
        if not path.stat().st_size:
            raise ArtifactError(f"{path.name} is empty")

    def snippet(self, manifest: Mapping[str, Any]) -> str | None:
        """See `Backend.snippet`."""
        from timmx_tensorrt.snippet import lines, onnx_lines

        if manifest["options"].get("onnx_only"):
            return None if manifest["precision"]["name"] == NO_KERNELS else onnx_lines(manifest)

        return lines(self.library.module, manifest)


def _check_reference(request: ExportRequest) -> None:
    """Whether an ONNX file can be verified, where that is required.

    :raises VerificationError: onnxruntime cannot run it.
    """
    if request.shared["require_verified"] and request.precision.name == NO_KERNELS:
        raise VerificationError(
            f"not verifiable here: onnxruntime has no kernels for {NO_KERNELS}",
            "leave --require-verified out, build the engine, and run `timmx verify ENGINE "
            "--built-from FILE.onnx` where the GPU is",
        )
