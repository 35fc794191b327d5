"""What the user reads on stderr: lines, errors, hints. Results go to stdout and not here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import IO

import click

from timmx_core.errors import TimmxError

COLOURS = re.compile(r"\x1b\[[\d;]*m")
# All of C0 and C1 but tab and newline, DEL, and what governs the direction of writing.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# In a line, a tab and a newline too: what follows them looks like a row that timmx wrote.
UNSAFE_IN_LINE = re.compile(rf"[\t\n]|{UNSAFE.pattern}")


class Terminal:
    """The user's stderr, which stays the user's while descriptors are led elsewhere."""

    def __init__(self) -> None:
        self.stream = _own_stderr()
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")

    def close(self) -> None:
        """Give the stream's descriptor back."""
        if self.stream is not sys.stderr:
            with contextlib.suppress(OSError):
                self.stream.close()

    def line(self, text: str = "") -> None:
        """One line, whatever is in it: no markup is read, and it commands the terminal nothing."""
        self._write(harmless(text))

    def lines(self, text: str, before: str = "") -> None:
        """Lines that timmx or a converter wrote, and no stranger's file; `before` each of them."""
        for line in text.split("\n"):
            self._write(before + harmless_text(line))

    def last_line(self, text: str) -> None:
        """A line of a process that ends in the middle of whatever it was writing."""
        self._write_at_once(text + "\n")

    def show_cursor(self) -> None:
        """After a live line that did not come to its end: erased, and the cursor shown again."""
        self._write_at_once("\r\x1b[2K\x1b[?25h")

    def _write_at_once(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.write(self.stream.fileno(), text.encode())

    def labelled(self, label: str, text: str, colour: str | None = None) -> None:
        """`label: text` in one line, the label in colour on a terminal."""
        self._write(f"{self._label(label, colour)}: {harmless(text)}")

    def _label(self, label: str, colour: str | None) -> str:
        return click.style(label, fg=colour, bold=True) if self.colour else label

    def error_text(self, text: str) -> None:
        """What went wrong; further lines, as converters' errors have them, are indented."""
        shown = harmless_text(text).replace("\n", "\n  ")
        self._write(f"{self._label('error', 'red')}: {shown}")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text + "\n")
            self.stream.flush()
        except OSError:
            pass  # stderr has gone or is full; the exit code still tells

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.labelled("note", text, "yellow")

    def logged(self, level: int, text: str) -> None:
        """A record of core's log."""
        self.labelled(logging.getLevelName(level).lower(), text, "yellow")

    def error(self, error: TimmxError) -> None:
        """What happened, and what to do next."""
        self.error_text(error.message)
        if error.hint:
            self.labelled("hint", error.hint, "cyan")


class HostTerminal(Terminal):
    """The terminal of a run that answers a host, which tells the user all there is to tell."""

    live = False
    colour = False

    def __init__(self, log: Callable[[int, str], None]) -> None:
        self.stream = sys.stderr
        self._log = log

    def logged(self, level: int, text: str) -> None:
        """See `Terminal.logged`; the host shows it."""
        self._log(level, text)

    def _write(self, text: str) -> None:
        pass

    def _write_at_once(self, text: str) -> None:
        pass


def harmless(text: str) -> str:
    """A text of whatever origin as one line: colours go, other control characters are spelt out.

    So are characters that turn the direction of writing, in which a line reads as another.
    """
    return UNSAFE_IN_LINE.sub(lambda m: _spelt(m[0]), COLOURS.sub("", text))


def harmless_text(text: str) -> str:
    """As `harmless`, for a text whose lines and tabs are meant."""
    return UNSAFE.sub(lambda m: _spelt(m[0]), COLOURS.sub("", text))


def _spelt(character: str) -> str:
    if character in "\t\n":
        return "\\t" if character == "\t" else "\\n"
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


class LogLines(logging.Handler):
    """Log records as lines on the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self.terminal.logged(record.levelno, record.getMessage())


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
    rows = [tuple(map(harmless, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
