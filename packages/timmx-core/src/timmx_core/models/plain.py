"""No format at all: what `load_model` validates its options against."""

from __future__ import annotations

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
from timmx_core.errors import CannotRunHere, ExportError


class Plain(Backend):
    """Takes every shared option, writes nothing."""

    name = "pytorch"
    help = "The model itself, in PyTorch."
    suffixes = (".none",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)

    def build_options(self, request: ExportRequest) -> Mapping[str, Any]:
        return {}

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        raise ExportError("PyTorch itself is not a format to export to")

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        raise CannotRunHere("PyTorch itself is not a format to open")


PLAIN = Plain()
