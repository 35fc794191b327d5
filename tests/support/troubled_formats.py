"""A format whose runtime does what `TIMMX_TEST_TROUBLE` says."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Precision,
    Runner,
)
from timmx_core.errors import ArtifactError, CannotRunHere, MissingDependency

VARIABLE = "TIMMX_TEST_TROUBLE"


class TroubledRunner(Runner):
    name = "troubled 1.0"

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        import numpy as np

        trouble = os.environ.get(VARIABLE, "")
        array = inputs["input"]
        if trouble == "segfault":
            ctypes.string_at(0)
        elif trouble == "hang":
            time.sleep(600)
        elif trouble == "memory":
            hoard = []
            while True:
                hoard.append(np.ones(1 << 23))  # 64 MiB, touched
                time.sleep(0.01)
        elif trouble == "raise":
            raise RuntimeError("kernel 7 is not there\nand more lines")
        elif trouble == "exit":
            os._exit(3)
        elif trouble == "scalar":
            return {"output": array.mean()}
        elif trouble == "pickle":
            return {"output": np.array([object()] * len(array))}
        elif trouble == "loud":
            print("x" * 10_000_000)
        return {"output": array * 2}


class TroubledBackend(Backend):
    name = "troubled"
    help = "For tests."
    suffixes = (".troubled",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        context.primary.write_bytes(b"nothing")
        return Artifact(context.primary, model.inputs, model.outputs)

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        trouble = os.environ.get(VARIABLE, "")
        if trouble == "no device":
            raise CannotRunHere("there is no such card here", "buy one")
        if trouble == "no library":
            raise MissingDependency("its library is not installed")
        if trouble == "broken file":
            raise ArtifactError("the file is cut off")
        return TroubledRunner()

    def preload(self) -> None:
        if os.environ.get(VARIABLE) == "no import":
            import no_such_runtime  # type: ignore[import-not-found]  # noqa: F401
