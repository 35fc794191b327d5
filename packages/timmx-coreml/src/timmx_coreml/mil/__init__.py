"""A reference interpreter for saved ML programs: `load("m.mlpackage").run({"input": x})`.

It reads the package itself (protobuf, weight file) and evaluates every operation with torch, so
it needs neither macOS nor the converter that wrote the file. It promises that the file, read as
the format says, computes what comes out; it does not promise what a device's own kernels add or
lose. Anything that it does not know is an error, never a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation

if TYPE_CHECKING:
    from timmx_coreml.mil.interpreter import Program, load

__all__ = ["Program", "ProgramError", "UnsupportedOperation", "load"]


def __getattr__(name: str) -> Any:
    # Reading a package's description needs neither torch nor the operations.
    if name in ("Program", "load"):
        from timmx_coreml.mil import interpreter

        return getattr(interpreter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
