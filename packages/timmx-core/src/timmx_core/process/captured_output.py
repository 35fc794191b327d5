"""Converters' noise goes to a log, on the file descriptors, since C code writes there.

Shown with `-v` or on failure, never on a good run.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from timmx_core.errors import OutputError
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
            with contextlib.ExitStack() as stack:
                self._redirect(stack)
                self._stack = stack.pop_all()
        except OSError as error:
            raise OutputError(
                f"what converters print cannot be kept: {error.strerror or error}",
                "close some files, or raise the limit (ulimit -n)",
            ) from error
        return self

    def _redirect(self, stack: contextlib.ExitStack) -> None:
        """Register with `stack` how each step is taken back.

        :raises OSError: this process may open no more files.
        """
        saved: dict[int, int | None] = {}
        stack.callback(_restore, saved)
        for descriptor in (1, 2):
            saved[descriptor] = _copy(descriptor)
        terminal = saved[2] if saved[2] is not None else stack.enter_context(_nowhere()).fileno()
        self.terminal = os.fdopen(
            _copied(terminal), "w", buffering=1, encoding="utf-8", errors="replace"
        )
        stack.callback(self.terminal.close)
        if self.verbose:
            os.dup2(terminal, 1)
            os.dup2(terminal, 2)  # or what is opened next takes its number, if it was closed
            return
        handle = self._open_log(stack)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Heedless(_copied(handle), "w")),
            encoding="utf-8",
            errors="replace",
            line_buffering=True,
        )
        stack.callback(stream.close)
        # Where sys.stdout is no descriptor (a notebook), Python's own prints are caught here.
        stack.enter_context(contextlib.redirect_stdout(stream))
        stack.enter_context(contextlib.redirect_stderr(stream))

    def _open_log(self, stack: contextlib.ExitStack) -> int:
        """The log's descriptor; that of nothing where no temporary file can be made."""
        import tempfile  # every start of the command line would pay for it

        try:
            # Without a name, so that nothing is left of it however this process ends.
            with tempfile.TemporaryFile(buffering=0) as log:
                handle = _copied(log.fileno())
        except OSError:
            return stack.enter_context(_nowhere()).fileno()
        self._log = stack.enter_context(os.fdopen(handle, "r+b", buffering=0))
        return handle

    def __exit__(self, *_: object) -> None:
        _flush()
        self._stack.close()

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


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Lead what is printed to stderr, be it from C, so that stdout carries the result alone."""
    _flush()
    saved = {1: _copy(1)}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if saved[1] is not None:
                with contextlib.suppress(OSError):  # stderr is closed
                    os.dup2(2, 1)
            yield
    finally:
        if saved[1] is not None:
            _restore(saved)


def _restore(saved: Mapping[int, int | None]) -> None:
    """Lead descriptors where they led; None: it was closed."""
    _flush()
    for descriptor, copy in saved.items():
        if copy is not None:
            os.dup2(copy, descriptor)
            os.close(copy)
            continue
        with contextlib.suppress(OSError):  # nothing took its place
            os.close(descriptor)


def _copy(descriptor: int) -> int | None:
    """See `_copied`; None where the caller closed it, as services do."""
    try:
        return _copied(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise


def _copied(descriptor: int) -> int:
    """A copy with another number than those of the standard streams, some of which may be free.

    :raises OSError: it is closed, or this process may open no more files.
    """
    low = []
    try:
        while (copy := os.dup(descriptor)) <= 2:
            low.append(copy)
        return copy
    finally:
        for other in low:
            os.close(other)


@contextlib.contextmanager
def _nowhere() -> Iterator[IO[bytes]]:
    with Path(os.devnull).open("wb") as file:
        handle = _copied(file.fileno())
    with os.fdopen(handle, "wb", buffering=0) as nowhere:
        yield nowhere


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
