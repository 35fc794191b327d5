"""The plugin module of timmx-tensorrt: what timmx finds by its entry point."""

from __future__ import annotations

from collections.abc import Iterable

from timmx_core.backend import Backend
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1


@hookimpl
def timmx_backends() -> Iterable[Backend]:
    """The formats `tensorrt` and `tensorrt-rtx`."""
    from timmx_tensorrt.backend import TensorRtBackend
    from timmx_tensorrt.rtx import TensorRtRtxBackend

    return [TensorRtBackend(), TensorRtRtxBackend()]
