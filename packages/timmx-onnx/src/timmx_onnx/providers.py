"""Names of execution providers."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence

from timmx_core.errors import RequestError

# An entry of a session's configuration. On x86 processors without VNNI, onnxruntime's fast products
# of uint8 and int8 overflow 16 bits; with it they are exact everywhere.
EXACT_PRODUCTS = ("session.x64quantprecision", "1")
CPU = "CPUExecutionProvider"


def check_names(names: Sequence[str]) -> None:
    """Whether onnxruntime knows them, be they here or not.

    Without it nothing is known of them, and nothing can be run either.

    :raises RequestError: a name that no build of it has.
    """
    if all(name == CPU for name in names) or importlib.util.find_spec("onnxruntime") is None:
        return
    from timmx_onnx.runner import import_onnxruntime

    known = import_onnxruntime().get_all_providers()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known)}"
            raise RequestError(f"onnxruntime knows no provider {name!r}", hint)
