"""The verbs of the plugin contract. Its nouns are in `timmx_core.backend`.

A plugin is a distribution with one entry point in the group `timmx`, named after the
distribution (`timmx-onnx` has `onnx = "timmx_onnx.plugin"`). The module it names states the
contract that it was written for and implements any of the hooks below::

    from timmx_core.hookspecs import hookimpl

    TIMMX_API_VERSION = 1

    @hookimpl
    def timmx_backends():
        from timmx_onnx.backend import OnnxBackend
        return [OnnxBackend()]

An implementation may take fewer arguments than its specification. Arguments are added over
time and never removed within a major version. Each plugin is called alone: one that raises is
reported in `timmx plugins list` and `timmx doctor`, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from timmx_core.backend import Backend, ExportRequest
    from timmx_core.results import ExportResult

__all__ = [
    "API_VERSION",
    "hookimpl",
    "hookspec",
    "timmx_backends",
    "timmx_export_finished",
    "timmx_model_source",
]

API_VERSION = 1
PROJECT = "timmx"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def timmx_backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """The formats that this plugin brings.

    :return: one `Backend` instance per format.

    .. versionadded:: 0.1
    """


@hookspec(firstresult=True)
def timmx_model_source(name: str) -> Path | None:
    """Turn a model name of your own scheme (`mlflow:...`) into a local path. First result wins.

    Asked in the process that the user started, also for formats with an environment of their own.

    :param name: the MODEL argument as the user gave it.
    :return: a checkpoint file or a folder as timm's `local-dir:` takes it; None: not mine.

    .. versionadded:: 0.1
    """


@hookspec
def timmx_export_finished(request: ExportRequest, result: ExportResult) -> None:
    """Observe a finished export, after the file is in place.

    A failure here is logged and never loses the artifact. Told in the process that the user
    started, also for formats with an environment of their own.

    :param request: what was asked.
    :param result: the file, its manifest and its verdict.

    .. versionadded:: 0.1
    """
