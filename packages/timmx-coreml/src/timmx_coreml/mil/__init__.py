"""A reference interpreter for saved ML programs: `load("m.mlpackage").run({"input": x})`.

It reads the package itself (protobuf, weight file) and evaluates every operation with torch, so
it needs neither macOS nor the converter that wrote the file. It promises that the file, read as
the format says, computes what comes out; it does not promise what a device's own kernels add or
lose. Anything that it does not know is an error, never a guess.
"""

from __future__ import annotations

from timmx_coreml.mil.errors import ProgramError, UnsupportedOperation
from timmx_coreml.mil.interpreter import Program, load

__all__ = ["Program", "ProgramError", "UnsupportedOperation", "load"]
