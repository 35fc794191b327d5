"""A private folder beside the target, which no failure leaves behind.

It lies on the target's file system, so that putting a file in place is a rename. Its lock tells a
dead run from a live one: whoever holds it owns the folder, and the next run removes the folders
whose lock it can take. A SIGKILL can do no worse than leave one until then; what it interrupted in
the middle of being put in place is taken back then, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from timmx_core.errors import OutputError
from timmx_core.files.file_transaction import Moves
from timmx_core.process.interrupts import at_end, forget, held_back

PREFIX = ".timmx-staging-"
NAME = re.compile(re.escape(PREFIX) + r"\d+-[0-9a-f]{8}")  # the process, and chance
LOCK = "lock"
GRACE = 1.0  # seconds


class Staging:
    """Context manager around the folder; `path` exists while it is entered."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.path = parent
        self._made: list[Path] = []
        self._lock: FileLock | None = None
        self.published = False

    def __enter__(self) -> Self:
        try:
            with held_back():
                at_end(self._remove)
                self._made = _make_parents(self.parent)
                remove_dead(self.parent)
                self.path, self._lock = _claim(self.parent)
        except OSError as error:
            self.__exit__()
            raise output_error(error, self.parent) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            forget(self._remove)
            self._remove()

    def _remove(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()
        if self.published:
            return
        for folder in self._made:
            # Not empty: somebody else has put something there meanwhile.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Make what is missing; the folders that were made, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing


def _claim(parent: Path) -> tuple[Path, FileLock]:
    while True:
        folder = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):
            continue  # another run took the folder for dead before it was locked
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)  # room for a folder, and for nothing in it
            raise
        if (folder / LOCK).exists():
            return folder, lock
        lock.release()


def remove_dead(parent: Path) -> None:
    """Remove what killed runs left in a folder."""
    for folder in parent.glob(PREFIX + "*"):
        if not _is_ours(folder):
            continue
        lock = FileLock(folder / LOCK)
        try:
            # A child that was being started when its parent was killed has the lock for a moment.
            lock.acquire(timeout=0 if _owner_lives(folder) else GRACE)
        except (Timeout, OSError):
            continue  # alive
        Moves.take_back(folder)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _owner_lives(folder: Path) -> bool:
    """Whether a process of that number is seen from here; it may be in another container."""
    import psutil

    number = folder.name.removeprefix(PREFIX).partition("-")[0]
    return number.isdigit() and psutil.pid_exists(int(number))


def _is_ours(folder: Path) -> bool:
    """A real folder that a run of this user's made: with its lock, or killed before it had one.

    The name alone proves nothing; nor does a folder that another user has put here.
    """
    if not NAME.fullmatch(folder.name):
        return False
    try:
        status = folder.lstat()
        if not (os.path.lexists(folder / LOCK) or not any(folder.iterdir())):
            return False
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and (
        not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    )


def output_error(error: OSError, path: Path) -> OutputError:
    """What an OSError means for the one who wanted a file there."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left on the disk of {path}", "make room, or choose another -o"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"no permission to write to {path}", "choose another place with -o PATH")
    if error.errno == errno.EISDIR:
        return OutputError(f"{path} is a directory", "choose another place with -o PATH")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(f"{path} is not a folder", "choose another place with -o PATH")
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(
            f"the name is too long: {path.name[:60]}...", "choose another with -o PATH"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OutputError(
            f"no further file can be opened for {path}: {error.strerror}",
            "close some, or raise the limit (ulimit -n)",
        )
    return OutputError(f"cannot write to {path}: {error.strerror or error}")
