"""What this plugin brings: the format `coreml`."""

from __future__ import annotations

from collections.abc import Iterable

from timmx_core.backend import Backend
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1


@hookimpl
def timmx_backends() -> Iterable[Backend]:
    """The one format of this distribution."""
    from timmx_coreml.backend import CoreMLBackend

    return [CoreMLBackend()]
