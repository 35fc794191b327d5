"""Converters' noise goes to a log, on the file descriptors, since C code writes there.

Shown with `-v` or on failure, never on a good run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Self

from timmx_core.interrupts import at_end, forget
from timmx_core.paths import log_dir

PROGRESS_BAR = re.compile(r"\d%\|")  # of tqdm
TAIL_LINES = 12
LONGEST_LINE = 200
TAIL_BYTES = 65536


class Noise:
    """While entered, descriptors 1 and 2 lead to a log file; `terminal` is the real stderr.

    With `verbose` nothing is hidden: what goes to stdout goes to the real stderr, so that stdout
    still carries the result alone. `enabled=False` does nothing (a nested use).
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self.log: Path | None = None
        self.terminal: IO[str] = sys.stderr
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        _flush()
        try:
            saved = [os.dup(1), os.dup(2)]
        except OSError:
            return self  # started without descriptors (a service): there is nothing to redirect
        self._stack.callback(self._restore, saved)
        self.terminal = os.fdopen(
            os.dup(saved[1]), "w", buffering=1, encoding="utf-8", errors="replace"
        )
        self._stack.callback(self.terminal.close)
        if self.verbose:
            os.dup2(saved[1], 1)
            return self
        handle = self._open_log()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Heedless(os.dup(1), "w")),
            encoding="utf-8",
            errors="replace",
            line_buffering=True,
        )
        self._stack.callback(stream.close)
        # Where sys.stdout is no descriptor (a notebook), Python's own prints are caught here.
        self._stack.enter_context(contextlib.redirect_stdout(stream))
        self._stack.enter_context(contextlib.redirect_stderr(stream))
        return self

    def _open_log(self) -> int:
        """The log's descriptor; that of nothing where no temporary file can be made."""
        try:
            handle, name = tempfile.mkstemp(prefix="timmx-", suffix=".log")
        except OSError:
            return os.open(os.devnull, os.O_WRONLY)
        self.log = Path(name)
        at_end(self.log.unlink)
        return handle

    def __exit__(self, *_: object) -> None:
        _flush()
        self._stack.close()
        if self.log is not None:
            with contextlib.suppress(OSError):
                self.log.unlink()
            forget(self.log.unlink)

    def _restore(self, saved: list[int]) -> None:
        _flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)

    def tail(self) -> str:
        """The last lines of the log that say something, for a failure's message."""
        _flush()
        if self.log is None:
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if not PROGRESS_BAR.search(line)]
        return "\n".join(shorten(line) for line in telling[-TAIL_LINES:])

    def keep(self, extra: str = "") -> Path | None:
        """Keep the log after all, for a failure; None where there is none or no room for it."""
        _flush()
        if self.log is None or (not extra and self.log.stat().st_size == 0):
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        kept = log_dir() / f"{stamp}-{os.getpid()}.log"
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(self.log.read_bytes() + extra.encode("utf-8", "replace"))
        except OSError:
            # A full disk must not hide the failure that is being reported.
            with contextlib.suppress(OSError):
                kept.unlink()
            return None
        return kept


class _Heedless(io.FileIO):
    """A log on a full disk loses what is written, and a converter that prints goes on."""

    def write(self, data: Any, /) -> int:
        """All of `data` as far as the caller can see."""
        try:
            super().write(data)
        except OSError:
            pass  # the log ends here
        return memoryview(data).nbytes


def shorten(line: str) -> str:
    """A line that does not bury the error below it; the log has all of it."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A closed or broken stream has nothing that could still be shown.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
