"""Export any timm image model to a verified, deployable file.

>>> import timmx_core
>>> result = timmx_core.export("onnx", "resnet18", pretrained=True, output="resnet18.onnx")
>>> result.verdict.status
'verified'
"""

from __future__ import annotations

from timmx_core.api import describe_model, export, inspect, load_model, snippet, verify
from timmx_core.errors import (
    ArtifactError,
    CannotRunHere,
    ExportError,
    IsolationError,
    MissingDependency,
    ModelError,
    OutputError,
    PluginError,
    RequestError,
    TimmxError,
    VerificationError,
)
from timmx_core.results import ExportResult, Inspection, Measurement, Verdict

__all__ = [
    "ArtifactError",
    "CannotRunHere",
    "ExportError",
    "ExportResult",
    "Inspection",
    "IsolationError",
    "Measurement",
    "MissingDependency",
    "ModelError",
    "OutputError",
    "PluginError",
    "RequestError",
    "TimmxError",
    "Verdict",
    "VerificationError",
    "describe_model",
    "export",
    "inspect",
    "load_model",
    "snippet",
    "verify",
]
