"""How the lifecycle tells what it is doing, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Reporter(Protocol):
    """Told of each stage; the command line draws it, the Python API stays silent."""

    def started(self, label: str) -> None:
        """A stage begins."""

    def finished(self, label: str, seconds: float) -> None:
        """The stage ended well."""

    def note(self, text: str) -> None:
        """A line that the user should read (random weights, a fallback that was taken)."""


class SilentReporter:
    """Reports nothing; collects nothing."""

    def started(self, label: str) -> None:
        pass

    def finished(self, label: str, seconds: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Stopwatch:
    """Times stages and tells a reporter about them."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        """Time one stage; an exception passes through and leaves the stage unfinished."""
        self.reporter.started(label)
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[label] = self.seconds.get(label, 0.0) + elapsed
        self.reporter.finished(label, elapsed)
