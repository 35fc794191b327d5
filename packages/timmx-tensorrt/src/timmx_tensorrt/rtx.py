"""The format `tensorrt-rtx`: engines for GeForce and RTX cards, built without one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import ExportRequest, Option
from timmx_core.errors import CannotRunHere
from timmx_tensorrt import gpu, targets
from timmx_tensorrt.engines import COMMON_OPTIONS, EngineBackend
from timmx_tensorrt.library import RTX
from timmx_tensorrt.plan import read_header
from timmx_tensorrt.settings import Settings


class TensorRtRtxBackend(EngineBackend):
    """TensorRT for RTX. Timing caches, levels and compatibility flags mean nothing to it."""

    name = "tensorrt-rtx"
    help = "Engines of NVIDIA TensorRT for RTX, for GeForce and RTX graphics cards."
    library = RTX
    requires = ("tensorrt-rtx>=1.7",)
    options = (
        Option(
            "target",
            "str",
            f"Compute capabilities that the engine is for, of {', '.join(targets.LACKS)}.",
            unset="all from Ampere on that have the precision",
            metavar="SM,SM",
        ),
        *COMMON_OPTIONS,
    )

    def check_request(self, request: ExportRequest) -> None:
        """See `EngineBackend.check_request`."""
        targets.parse(request.options["target"], request.precision.name)

    def settings(self, request: ExportRequest) -> Settings:
        """See `EngineBackend.settings`."""
        precision = request.precision.name
        return Settings(
            tf32=precision == "tf32",
            workspace=request.options["workspace"],
            targets=targets.parse(request.options["target"], precision),
        )

    def made_on(self, settings: Settings, version: str) -> Mapping[str, Any]:
        """See `EngineBackend.made_on`."""
        return {"library": version, "targets": list(settings.targets)}

    def meant_for(self, made: Mapping[str, Any]) -> str:
        """See `EngineBackend.meant_for`."""
        return ", ".join(made["targets"])

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        super().check_run()
        card = gpu.find()
        if card.target not in targets.LACKS:
            raise CannotRunHere(
                f"TensorRT-RTX runs nothing on {card.name} ({card.target})",
                f"it runs on {', '.join(targets.LACKS)}",
            )

    def check_engine(self, path: Path) -> None:
        """See `EngineBackend.check_engine`: it has a header."""
        read_header(path)

    def obstacles(self, path: Path, made: Mapping[str, Any], card: gpu.Gpu) -> list[str]:
        """See `EngineBackend.obstacles`. Releases do not run each other's engines."""
        found = []
        header = read_header(path)
        if header.version != self.library.version:
            found.append(
                f"it was built by tensorrt-rtx {header.version}, and {self.library.version} is "
                "installed"
            )
        built_for = made.get("targets")
        if isinstance(built_for, list) and card.target not in built_for:
            names = ", ".join(str(target) for target in built_for)
            found.append(f"it is for {names}, and this is {card.name} ({card.target})")
        return found

    def command(self, onnx: str, engine: str, request: ExportRequest, shapes: list[str]) -> str:
        """See `EngineBackend.command`."""
        settings = self.settings(request)
        words = ["tensorrt_rtx", f"--onnx={onnx}", f"--saveEngine={engine}", *shapes]
        if not settings.tf32:
            words.append("--noTF32")
        capabilities = ",".join(target.removeprefix("sm") for target in settings.targets)
        words += [f"--computeCapabilities={capabilities}", "--skipInference"]
        if settings.workspace:
            words.append(f"--memPoolSize=workspace:{settings.workspace}")
        return shlex.join(words)
