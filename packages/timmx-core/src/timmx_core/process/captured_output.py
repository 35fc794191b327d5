"""Converters' noise goes to a log, on the file descriptors, since C code writes there.

Shown with `-v` or on failure, never on a good run.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Self

from timmx_core.process.paths import log_dir

PROGRESS_BAR = re.compile(r"\d%\|")  # of tqdm
LOG = re.compile(r"\d{8}-\d{6}-\d+(-\d+)?\.log")
MOST_LOGS = 50
TAIL_LINES = 12
LONGEST_LINE = 200
TAIL_BYTES = 65536


class Noise:
    """While entered, descriptors 1 and 2 lead to a log file; `terminal` is the real stderr.

    With `verbose` nothing is hidden: what goes to stdout goes to the real stderr, so that stdout
    still carries the result alone.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self._log: IO[bytes] | None = None
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
            # Without a name, so that nothing is left of it however this process ends.
            log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the stack closes it)
        except OSError:
            return self._stack.enter_context(Path(os.devnull).open("wb")).fileno()
        self._log = self._stack.enter_context(log)
        return self._log.fileno()

    def __exit__(self, *_: object) -> None:
        _flush()
        self._stack.close()

    def _restore(self, saved: list[int]) -> None:
        _flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)

    def tail(self) -> str:
        """The last lines of the log that say something, for a failure's message."""
        text = self._written(TAIL_BYTES).decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if not PROGRESS_BAR.search(line)]
        return "\n".join(shorten(line) for line in telling[-TAIL_LINES:])

    def keep(self, extra: str = "") -> Path | None:
        """Keep the log after all, for a failure; None where there is none or no room for it."""
        text = self._written() + extra.encode("utf-8", "replace")
        if not text:
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        kept = log_dir() / f"{stamp}-{os.getpid()}.log"
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                with contextlib.suppress(FileExistsError):  # of another failure in this second
                    kept.open("xb").close()
                    break
                kept = kept.with_name(f"{stamp}-{os.getpid()}-{number}.log")
            kept.write_bytes(text)
        except OSError:
            # A full disk must not hide the failure that is being reported.
            with contextlib.suppress(OSError):
                kept.unlink()
            return None
        _drop_old_logs(kept.parent)
        return kept

    def _written(self, most: int | None = None) -> bytes:
        """The end of the log, or all of it."""
        _flush()
        if self._log is None:
            return b""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(0 if most is None else max(0, size - most))
        content = self._log.read()
        # Whoever still writes has this same place in it.
        self._log.seek(0, os.SEEK_END)
        return content


def _drop_old_logs(folder: Path) -> None:
    """The newest stay; their names begin with the time."""
    logs = sorted(path for path in folder.glob("*.log") if LOG.fullmatch(path.name))
    for path in logs[:-MOST_LOGS]:
        with contextlib.suppress(OSError):
            path.unlink()


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
