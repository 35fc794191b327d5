"""What the user reads on stderr: lines, errors, hints. Results go to stdout and not here."""

from __future__ import annotations

import logging
import os
import sys
from typing import IO

import click

from timmx_core.errors import TimmxError


class Terminal:
    """The user's stderr, which stays the user's while descriptors are led elsewhere."""

    def __init__(self) -> None:
        self.stream = _own_stderr()
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")

    def line(self, text: str = "") -> None:
        """One line, as it is: no markup is read in it."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def labelled(self, label: str, text: str, colour: str | None = None) -> None:
        """`label: text`, the label in colour on a terminal; further lines are indented."""
        shown = click.style(label, fg=colour, bold=True) if self.colour else label
        self.line(f"{shown}: " + text.replace("\n", "\n  "))

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.labelled("note", text, "yellow")

    def error(self, error: TimmxError) -> None:
        """What happened, and what to do next."""
        self.labelled("error", error.message, "red")
        if error.hint:
            self.labelled("hint", error.hint, "cyan")


class LogLines(logging.Handler):
    """Log records as lines on the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self.terminal.labelled(record.levelname.lower(), record.getMessage(), "yellow")


def _own_stderr() -> IO[str]:
    """A stream of its own on descriptor 2, so that redirecting that one does not move it."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return sys.stderr if sys.stderr is not None else open(os.devnull, "w")  # noqa: PTH123
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return os.fdopen(descriptor, "w", buffering=1, encoding=encoding, errors="replace")


def columns(rows: list[tuple[str, ...]], gap: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
