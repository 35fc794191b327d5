"""What can be wrong with a package, and what this interpreter does not know."""

from __future__ import annotations

from timmx_core.errors import ArtifactError, CannotRunHere


class ProgramError(ArtifactError):
    """The package is broken: truncated, contradictory, or beyond the limits set for it."""


class UnsupportedOperation(CannotRunHere):
    """The program is well formed and uses something that this interpreter does not compute."""
