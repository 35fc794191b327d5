"""OpenVINO itself, as it is imported everywhere here."""

from __future__ import annotations

import sys
from typing import Any


def import_openvino() -> Any:
    """openvino without its reports to its makers, for which it writes to the user's home."""
    # It and nncf do without them where this module cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def cause(error: BaseException) -> str:
    """What OpenVINO has to say behind the places in its own sources that it names first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
