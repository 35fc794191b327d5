"""The quantizer of LiteRT, by either of its names: ai-edge-quantizer became litert-quantizer.

Both have the same API. litert-torch brings the one that it was made for.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

# Module -> requirement, the new name first.
NAMES = {
    "litert_quantizer": "litert-quantizer>=0.11",
    "ai_edge_quantizer": "ai-edge-quantizer>=0.10",
}


def module_name() -> str:
    """The one that is installed; the older name where none is."""
    return next((name for name in NAMES if importlib.util.find_spec(name)), "ai_edge_quantizer")


def requirement() -> str:
    """What it is called on the package index, with the oldest release that will do."""
    return NAMES[module_name()]


def part(name: str) -> Any:
    """A module of it: "qtyping", "utils.qsv_utils".

    :raises ImportError: it is not installed.
    """
    return importlib.import_module(f"{module_name()}.{name}")
