"""A `timmx` in another process: words in, events while it works, one JSON object out.

The child has a session of its own, so that a Ctrl-C at the terminal reaches the host alone, which
tells the child to end and waits until it has cleaned up. A host that is killed takes the child
with it (on Linux; elsewhere the child ends its work and nobody listens).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from timmx_core.errors import IsolationError
from timmx_core.isolation.protocol import Events
from timmx_core.plugins.format_json import PROTOCOL
from timmx_core.process.interrupts import at_end, end_first, forget, held_back, kill_session
from timmx_core.process.paths import home
from timmx_core.progress import Reporter, SilentReporter

ISOLATED = "TIMMX_ISOLATED"
ANSWER_VARIABLE = "TIMMX_ANSWER_TIMEOUT"
ANSWER_SECONDS = 120.0  # until a plugin is loaded, on a slow disk
GRACE = 10.0  # seconds to clean up in
POLL = 0.05  # seconds
TAIL_LINES, TAIL_BYTES = 12, 65536

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a child ended. `content` is what it left, None where it left nothing readable."""

    code: int  # negative: the signal
    answered: bool  # it got as far as beginning its work
    content: Mapping[str, Any] | None
    said: str  # the last lines of its output
    trouble: str = ""  # why the host ended it

    @property
    def cause(self) -> str:
        """In words."""
        if self.trouble:
            return self.trouble
        if self.code < 0:
            name = str(-self.code)
            with contextlib.suppress(ValueError):
                name = signal.Signals(-self.code).name
            if name == "SIGKILL":
                return "it was killed, as systems do with what takes more memory than there is"
            return f"it died with {name}"
        return f"it ended with exit code {self.code} and no result"


def environment_variables() -> dict[str, str]:
    """What an isolated environment is started with: nothing that leads Python elsewhere."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PYTHONSTARTUP"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {ISOLATED: "1", "TIMMX_HOME": str(home())}


def isolated_command(python: Path) -> list[str]:
    """`timmx` in an environment, by its interpreter: a script's first line may be too long."""
    return [str(python), "-I", "-m", "timmx_core"]


def own_command() -> list[str]:
    """`timmx` in this environment, whatever lies in the working folder."""
    return [sys.executable, "-P", "-m", "timmx_core"]


def run_child(
    command: Sequence[str],
    words: Sequence[str],
    *,
    reporter: Reporter | None = None,
    variables: Mapping[str, str] | None = None,
    verbose: bool = False,
    timeout: float | None = None,
) -> Ending:
    """Run `timmx WORDS` to its end.

    :param timeout: seconds for all of it; None: only until it has begun.
    :raises IsolationError: it cannot be started.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="timmx-call-"))
    except OSError as error:
        raise IsolationError(
            f"the temporary folder cannot be written: {error.strerror or error}",
            "make room there, or name another one with TMPDIR",
        ) from error

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    at_end(remove)
    try:
        child = _Child(folder, reporter or SilentReporter())
        return child.run([*command, "--result-file", str(child.result), *words], variables,
                         verbose=verbose, timeout=timeout)  # fmt: skip
    finally:
        forget(remove)
        remove()


class _Child:
    """One process, and what it tells."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.result = folder / "result.json"
        self.said = folder / "said.log"
        self.reporter = reporter
        self.answered = False
        self.process: subprocess.Popen[bytes] | None = None
        self._events = Events(self.result)

    def run(
        self,
        command: list[str],
        variables: Mapping[str, str] | None,
        *,
        verbose: bool,
        timeout: float | None,
    ) -> Ending:
        try:
            # Held back, or a signal could come between its start and its entry.
            with self.said.open("wb") as said, held_back():
                self.process = subprocess.Popen(
                    command,
                    env=environment_variables() if variables is None else dict(variables),
                    stdin=subprocess.DEVNULL,
                    stdout=_stream(said, verbose=verbose),
                    stderr=_stream(said, verbose=verbose),
                    start_new_session=True,
                )
                _Running.add(self.process)
        except OSError as error:
            raise IsolationError(
                f"{command[0]} cannot be started: {error.strerror or error}"
            ) from error
        try:
            trouble = self._wait(self.process, timeout)
        finally:
            _end([self.process])
            _Running.remove(self.process)
        self._listen()
        content = None if trouble else _read(self.result)
        return Ending(self.process.returncode, self.answered, content, self._tail(), trouble)

    def _wait(self, process: subprocess.Popen[bytes], timeout: float | None) -> str:
        """Empty once it has ended by itself; else why it is to be ended."""
        start = time.monotonic()
        answer = _answer_seconds()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
                return ""
            self._listen()
            passed = time.monotonic() - start
            if timeout is not None and passed > timeout:
                return f"it was not done after {timeout:g} s"
            if not self.answered and passed > answer:
                return f"it did not answer within {answer:g} s"

    def _listen(self) -> None:
        for event in self._events.new():
            match event:
                case {"event": "hello"}:
                    self.answered = True
                case {"event": "started", "label": str(label)}:
                    self.reporter.started(label)
                case {"event": "finished", "label": str(label), "seconds": float(seconds)}:
                    self.reporter.finished(label, seconds)
                case {"event": "note", "text": str(text)}:
                    self.reporter.note(text)
                case {"event": "log", "level": int(level), "text": str(text)}:
                    log.log(level, "%s", text)

    def _tail(self) -> str:
        try:
            with self.said.open("rb") as file:
                file.seek(max(0, self.said.stat().st_size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return "\n".join(lines[-TAIL_LINES:])


class _Running:
    """The children of this process, which are told to end before anything is killed."""

    lock = threading.Lock()
    processes: list[subprocess.Popen[bytes]] = []  # noqa: RUF012

    @classmethod
    def add(cls, process: subprocess.Popen[bytes]) -> None:
        with cls.lock:
            if not cls.processes:
                end_first(cls.end)
            cls.processes.append(process)

    @classmethod
    def remove(cls, process: subprocess.Popen[bytes]) -> None:
        with cls.lock:
            cls.processes.remove(process)
            if not cls.processes:
                forget(cls.end)

    @classmethod
    def end(cls) -> None:
        """From a signal's handler, which may have interrupted a holder of any lock: takes none."""
        import psutil

        found = []
        for process in list(cls.processes):
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(process.pid))
                found[-1].terminate()
        psutil.wait_procs(found, timeout=GRACE)


def end_children() -> None:
    """Have every child of this process end, and wait until it has cleaned up."""
    _Running.end()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask them to end, and see to it that they do."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        with contextlib.suppress(OSError):
            process.terminate()
    deadline = time.monotonic() + GRACE
    for process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in alive:
        if process.poll() is None:
            kill_session(process)
            process.wait()


def _stream(said: IO[bytes], *, verbose: bool) -> IO[bytes] | int:
    """With -v to the user's stderr; stdout carries the host's result alone."""
    if not verbose:
        return said
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return said


def _answer_seconds() -> float:
    with contextlib.suppress(ValueError):
        return float(os.environ.get(ANSWER_VARIABLE, ""))
    return ANSWER_SECONDS


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "protocol" in content else None


def check_protocol(protocol: object, whose: str, name: str) -> None:
    """:raises IsolationError: the two do not understand each other."""
    if protocol == PROTOCOL:
        return
    newer = isinstance(protocol, int) and protocol > PROTOCOL
    remedy = "pip install --upgrade timmx-core" if newer else f"timmx plugins upgrade {name}"
    raise IsolationError(
        f"{whose} speaks version {protocol} of the protocol between environments, and this timmx "
        f"version {PROTOCOL}",
        remedy,
    )
