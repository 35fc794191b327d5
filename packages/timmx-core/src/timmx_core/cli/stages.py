"""The stages of an export as the user sees them: a live line on a terminal, else plain lines."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

from timmx_core.cli.terminal import Terminal, harmless
from timmx_core.process.interrupts import at_end, forget
from timmx_core.progress import Reporter

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from timmx_core.cli.settings import Settings

INDENT = "  "
LABEL_WIDTH = 30
REFRESHES_PER_SECOND = 8


class StageReporter:
    """Implements `timmx_core.progress.Reporter`. Notes are told at the end, where they are read."""

    def __init__(self, terminal: Terminal, *, live: bool = True) -> None:
        self.terminal = terminal
        self.notes: list[str] = []
        self._parts: list[str] = []  # lines of stages within the one under way
        self._stack: list[tuple[str, float]] = []
        self._live = _start_live(terminal, self) if live and terminal.live else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            forget(self.terminal.show_cursor)
        for line in self._parts:  # of a stage that was not finished
            self.terminal.line(line)
        for note in dict.fromkeys(self.notes):
            self.terminal.note(note)

    def started(self, label: str) -> None:
        """See `Reporter.started`."""
        self._stack.append((label, time.monotonic()))

    def finished(self, label: str, seconds: float) -> None:
        """See `Reporter.finished`."""
        if self._stack:
            self._stack.pop()
        line = _line(label, len(self._stack), seconds)
        if self._stack:
            self._parts.append(line)  # told below the stage that it is a part of
            return
        lines, self._parts = [line, *self._parts], []
        for line in lines:
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False)
            else:
                self.terminal.line(line)

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self.notes.append(text)

    def __rich__(self) -> Text:
        """The stage under way, with its time so far; drawn again several times a second."""
        from rich.text import Text

        if not self._stack:
            return Text("")
        label, start = self._stack[-1]
        return Text(
            _line(label, len(self._stack) - 1, time.monotonic() - start),
            style="cyan",
            no_wrap=True,
            overflow="ellipsis",
        )


def reporting(settings: Settings) -> AbstractContextManager[Reporter]:
    """Who is told of stages: the user, or the host that this run answers."""
    if settings.answer is not None:
        return nullcontext(settings.answer)
    return StageReporter(settings.terminal, live=not settings.verbose)


def _line(label: str, depth: int, seconds: float) -> str:
    return f"{INDENT * depth}{harmless(label)}".ljust(LABEL_WIDTH) + f"{seconds:7.1f} s"


def _start_live(terminal: Terminal, reporter: StageReporter) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(
        file=terminal.stream, force_terminal=True, no_color=not terminal.colour, soft_wrap=True
    )
    live = Live(
        reporter,
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    at_end(terminal.show_cursor)
    live.start()
    return live
