"""Ctrl-C and its like: held back for a moment, and what is cleaned up before a process ends.

A program that is told to end does not unwind its stack: an exception that a handler raises within
C++ code which calls Python ends the process with SIGABRT (torch has such places), and converters
are known to swallow one. So what must not be left behind is known here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

_cleanups: list[Callable[[], object]] = []
_endings: list[Callable[[], object]] = []  # of children that clean up themselves


def at_end(cleanup: Callable[[], object]) -> None:
    """Have something done when a signal ends the process, until it is forgotten."""
    _cleanups.append(cleanup)


def end_first(ending: Callable[[], object]) -> None:
    """Have something done before child processes are killed: some clean up when told to end."""
    _endings.append(ending)


def forget(cleanup: Callable[[], object]) -> None:
    """It has been done, or is no longer needed."""
    for known in (_cleanups, _endings):
        with suppress(ValueError):
            known.remove(cleanup)


def clean_up() -> None:
    """Do all of it, the latest first, after child processes were ended or killed."""
    for ending in reversed(_endings):
        with suppress(Exception):  # the children are killed all the same
            ending()
    _kill_children()
    for cleanup in reversed(_cleanups):
        with suppress(Exception):  # what fails does not keep the rest from being done
            cleanup()


def _kill_children() -> None:
    with suppress(Exception):  # they end by themselves when they notice, or are gone already
        import psutil

        children = psutil.Process(os.getpid()).children(recursive=True)
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=3)


def die_with_parent(name: str) -> None:
    """Ask Linux for a signal when the parent dies, should this process be deep in C code then.

    :param name: "SIGTERM", or "SIGKILL", which Windows has not.
    """
    if sys.platform == "linux" and hasattr(signal, name):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(getattr(signal, name)))


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, where systems have sessions, all that it started in its own."""
    if hasattr(os, "killpg") and hasattr(signal, "SIGKILL"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(OSError):
        process.kill()


@contextmanager
def ctrl_c_noted() -> Iterator[list[int]]:
    """Tell a Ctrl-C from a `KeyboardInterrupt` that the block raises by itself.

    The signal does what it would do; the list that is given has it then. Handlers run in the main
    thread alone, and elsewhere no signal raises anything.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(before):
        yield noted
        return
    handler = before

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


def import_whole(*names: str) -> None:
    """Import modules; a Ctrl-C that would raise `KeyboardInterrupt` takes effect afterwards.

    What torch registers while it is imported it cannot register again, so that in a process where
    that was broken off nothing can be exported any more.
    """
    missing = [name for name in names if name not in sys.modules]
    raising = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with held_back() if missing and raising else nullcontext():
        for name in missing:
            import_module(name)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that Python handles wait until the end of the block, and take effect there.

    Handlers run in the main thread alone; elsewhere, and for signals that Python does not handle,
    there is nothing to hold back. For steps of milliseconds only.
    """
    if current_thread() is not main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    handlers = {n: signal.getsignal(n) for n in numbers}
    held = {n: handler for n, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)
