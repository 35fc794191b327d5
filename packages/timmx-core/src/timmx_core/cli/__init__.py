"""The command line. Domain modules know nothing of it."""

from __future__ import annotations

from timmx_core.cli.program import main

__all__ = ["main"]
