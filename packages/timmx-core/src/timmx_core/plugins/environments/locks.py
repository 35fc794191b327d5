"""One at a time: a lock per plugin, and one for the index.

The system lets go of a lock when its process ends, however it ends, so a lock that can be taken
says that whoever had it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from timmx_core.errors import IsolationError
from timmx_core.process.paths import home

if TYPE_CHECKING:
    from filelock import BaseFileLock


def _lock(name: str) -> BaseFileLock:
    from filelock import FileLock

    folder = home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from error
    return FileLock(folder / f"{name}.lock")


@contextmanager
def locked(name: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock of that name; `waiting` is called once where another process has it.

    :raises IsolationError: timmx's home cannot be written to.
    """
    from filelock import Timeout

    lock = _lock(name)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        raise _unwritable(error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(name: str) -> Iterator[bool]:
    """Hold the lock where nobody has it; False where somebody does."""
    from filelock import Timeout

    lock = _lock(name)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _unwritable(error: OSError) -> IsolationError:
    return IsolationError(
        f"timmx's home cannot be written to: {error.strerror or error} ({home()})",
        "make room or see to its permissions, or name another folder with TIMMX_HOME",
    )
