"""Export any timm image model to a verified, deployable file.

>>> import timmx_core
>>> result = timmx_core.export("onnx", "resnet18", pretrained=True, output="resnet18.onnx")
>>> result.verdict.status
'verified'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timmx_core.api import (
        describe_model,
        export,
        export_all,
        inspect,
        load_model,
        snippet,
        verify,
    )
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
    "export_all",
    "inspect",
    "load_model",
    "snippet",
    "verify",
]


# Loaded on first use: a plugin, a worker or `timmx --help` imports what it needs of the package
# and nothing else.
_HOMES = {
    "timmx_core.api": (
        "describe_model",
        "export",
        "export_all",
        "inspect",
        "load_model",
        "snippet",
        "verify",
    ),
    "timmx_core.results": ("ExportResult", "Inspection", "Measurement", "Verdict"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((m for m, names in _HOMES.items() if name in names), "timmx_core.errors")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
