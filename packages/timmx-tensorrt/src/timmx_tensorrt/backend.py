"""The format `tensorrt`: engines for the GPU that builds them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import ExportRequest, Option
from timmx_core.errors import ArtifactError, ExportError, MissingDependency, RequestError
from timmx_core.toolkit.places import cache_dir
from timmx_tensorrt import gpu
from timmx_tensorrt.engines import COMMON_OPTIONS, EngineBackend
from timmx_tensorrt.library import CLASSIC
from timmx_tensorrt.plan import MAGIC
from timmx_tensorrt.settings import Settings

# The first compute capability with a precision. int8 is everywhere.
OLDEST = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)}
AMPERE = (8, 0)
WITHOUT_GPU = "--onnx-only -o model.onnx, or timmx tensorrt-rtx"
TOLD = frozenset(
    {
        *("library", "gpu", "compute_capability", "cuda", "driver"),
        *("hardware_compatible", "version_compatible"),
    }
)


class TensorRtBackend(EngineBackend):
    """TensorRT 10 and 11, with strongly typed networks: the ONNX file says every precision."""

    name = "tensorrt"
    help = "Engines of NVIDIA TensorRT, for the GPU of this machine."
    library = CLASSIC
    requires = ("tensorrt>=10.12,<12",)
    options = (
        *COMMON_OPTIONS,
        Option(
            "builder_level",
            "int",
            "How long the builder searches for fast kernels: 0 (briefly) to 5.",
            3,
            minimum=0,
        ),
        Option(
            "timing_cache",
            "path",
            "File in which measurements of kernels are kept from build to build.",
            unset="one per GPU and version in timmx's own folder",
        ),
        Option(
            "hardware_compatible",
            "bool",
            "Let the engine run on all GPUs from Ampere on.",
            False,
        ),
        Option(
            "version_compatible",
            "bool",
            "Let the engine run with later releases of TensorRT.",
            False,
        ),
    )

    def check_request(self, request: ExportRequest) -> None:
        """See `EngineBackend.check_request`."""
        level = request.options["builder_level"]
        if level > 5:
            raise RequestError(f"--builder-level {level}: the highest is 5")
        cache = request.options["timing_cache"]
        if cache and Path(cache).is_dir():
            raise RequestError(f"--timing-cache {cache} is a folder", "name a file")

    def check_export(self, request: ExportRequest | None) -> None:
        """See `EngineBackend.check_export`; with a GPU here, whether it has the precision."""
        super().check_export(request)
        if request is not None and not request.options["onnx_only"]:
            check_card(gpu.find(), request)

    def check_builder(self) -> None:
        """See `EngineBackend.check_builder`.

        :raises ExportError: there is no GPU.
        """
        missing: MissingDependency | None = None
        try:
            super().check_builder()
        except MissingDependency as error:
            missing = error
        try:
            gpu.find()
        except gpu.NoGpuError as error:
            if missing is not None:  # who lacks both has no use for the library alone
                raise MissingDependency(
                    f"{missing.message}; and {error}",
                    f"{self.library.install}, on the machine with the GPU; here: {WITHOUT_GPU}",
                ) from None
            raise ExportError(
                f"{error}, and TensorRT builds an engine on the GPU that it is for",
                f"export there; here: {WITHOUT_GPU}",
            ) from None
        if missing is not None:
            raise missing

    def settings(self, request: ExportRequest) -> Settings:
        """See `EngineBackend.settings`."""
        options = request.options
        cache = options["timing_cache"]
        return Settings(
            tf32=request.precision.name == "tf32",
            workspace=options["workspace"],
            level=options["builder_level"],
            timing_cache=Path(cache) if cache else own_cache(gpu.find(), self.library.version),
            hardware_compatible=options["hardware_compatible"],
            version_compatible=options["version_compatible"],
        )

    def made_on(self, settings: Settings, version: str) -> Mapping[str, Any]:
        """See `EngineBackend.made_on`."""
        card = gpu.find()
        return {
            "library": version,
            "gpu": card.name,
            "compute_capability": "{}.{}".format(*card.capability),
            "cuda": card.cuda,
            "driver": card.driver,
            "hardware_compatible": settings.hardware_compatible,
            "version_compatible": settings.version_compatible,
        }

    def meant_for(self, made: Mapping[str, Any]) -> str:
        """See `EngineBackend.meant_for`."""
        if made["hardware_compatible"]:
            return "GPUs from Ampere on"
        return f"{made['gpu']} ({made['compute_capability']})"

    def check_engine(self, path: Path) -> None:
        """See `EngineBackend.check_engine`."""
        super().check_engine(path)
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise ArtifactError(f"{path.name} is an engine of TensorRT-RTX")

    def obstacles(self, path: Path, made: Mapping[str, Any], card: gpu.Gpu) -> list[str]:
        """See `EngineBackend.obstacles`."""
        if not made.keys() >= TOLD:
            return []  # of a record that timmx did not write
        found = []
        here, there = self.library.version, str(made["library"])
        if made["version_compatible"]:
            if _numbers(here) < _numbers(there):
                found.append(f"it was built by TensorRT {there}, and {here} here is older")
        elif here != there:
            found.append(f"it was built by TensorRT {there}, and {here} is installed")
        capability = "{}.{}".format(*card.capability)
        if made["hardware_compatible"]:
            if card.capability < AMPERE:
                found.append(f"it runs from Ampere on, and this is {card.name} ({capability})")
        elif capability != made["compute_capability"]:
            found.append(
                f"it was built on {made['gpu']} ({made['compute_capability']}), and this is "
                f"{card.name} ({capability})"
            )
        if _numbers(card.cuda) < _numbers(str(made["cuda"]))[:1]:
            found.append(f"it needs CUDA {made['cuda']}, and the driver here runs {card.cuda}")
        return found

    def command(self, onnx: str, engine: str, request: ExportRequest, shapes: list[str]) -> str:
        """See `EngineBackend.command`."""
        options = request.options
        words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped", *shapes]
        if request.precision.name != "tf32":
            words.append("--noTF32")
        if options["workspace"]:
            words.append(f"--memPoolSize=workspace:{options['workspace']}")
        words.append(f"--builderOptimizationLevel={options['builder_level']}")
        if options["hardware_compatible"]:
            words.append("--hardwareCompatibilityLevel=ampere+")
        if options["version_compatible"]:
            words.append("--versionCompatible")
        if options["timing_cache"]:
            words.append(f"--timingCacheFile={Path(options['timing_cache']).name}")
        words.append("--skipInference")
        return shlex.join(words)


def check_card(card: gpu.Gpu, request: ExportRequest) -> None:
    """Whether the GPU can do what is asked.

    :raises RequestError: it cannot.
    """
    name = request.precision.name
    needed = OLDEST.get(name, (0, 0))
    if request.options["hardware_compatible"]:
        if card.capability < AMPERE:
            raise RequestError(
                f"--hardware-compatible starts with Ampere, and this is {card.name} ({card.target})"
            )
        if needed > AMPERE:
            raise RequestError(f"not every GPU from Ampere on has --precision {name}")
    if card.capability < needed:
        raise RequestError(
            f"{card.name} ({card.target}) has no --precision {name}: that starts with "
            "sm{}{}".format(*needed)
        )


def own_cache(card: gpu.Gpu, version: str) -> Path:
    """Where timmx keeps the timing cache of a GPU and a version of TensorRT."""
    words = f"{card.name}-{card.target}-{version}-cuda{card.cuda}"
    return cache_dir() / "tensorrt" / (re.sub(r"[^A-Za-z0-9.-]+", "_", words) + ".cache")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
