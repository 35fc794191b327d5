"""The plugin module of timmx-openvino: what timmx finds by its entry point."""

from __future__ import annotations

from collections.abc import Iterable

from timmx_core.backend import Backend
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1


@hookimpl
def timmx_backends() -> Iterable[Backend]:
    """The format `openvino`."""
    from timmx_openvino.backend import OpenVinoBackend

    return [OpenVinoBackend()]
