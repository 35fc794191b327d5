"""Moving several files into place as if it were one step: what fails half-way is taken back.

A journal beside the staged files says what is going where, so that the next run can take back what
a SIGKILL interrupted. Files are known again by their inodes, sizes and times, since a freed inode
is given to the next file: nothing is touched that was not put there by the moves themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from timmx_core.reading.regular import read_regular

ASIDE = "replaced"  # within staging: second names of what is being replaced, and the journal
JOURNAL = "journal.json"
MOST_JOURNAL = 1 << 20
LOCK_TIMEOUT = 10.0  # seconds; whoever puts files in place needs milliseconds


class Moves:
    """Pairs of a staged path and its place, the primary last."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.staging = pairs[-1][0].parent
        self.folder = pairs[-1][1].parent
        self._identities = {place.name: _identity(source) for source, place in pairs}
        self._sources = {place.name: source for source, place in pairs}

    def prepare(self) -> None:
        """Give what will be replaced a second name, and write the journal.

        :raises OSError: a folder stands where a file should go, the disk is full, ...
        """
        aside = self.staging / ASIDE
        aside.mkdir(exist_ok=True)
        for name, source in self._sources.items():
            place = self.folder / name
            check_kind(source, place)
            if os.path.lexists(place) and not source.is_dir():
                _second_name(place, aside / name)
        steps = [
            {"name": name, "source": source.name, "identity": self._identities[name]}
            for name, source in self._sources.items()
        ]
        (aside / JOURNAL).write_text(json.dumps(steps), encoding="utf-8")

    def undo(self) -> None:
        """Put everything back as it was before the first move."""
        for name in reversed(self._sources):
            place = self.folder / name
            if _identity(place) != self._identities[name] or self._identities[name] is None:
                continue  # not moved yet, or somebody else's by now
            # Whatever cannot be put back does not stop the rest from it.
            with contextlib.suppress(OSError):
                _put_back(self._sources[name], self.staging / ASIDE / name, place)

    @classmethod
    def take_back(cls, staging: Path) -> None:
        """After a SIGKILL: undo, unless the primary was in place already."""
        try:
            steps = json.loads(read_regular(staging / ASIDE / JOURNAL, MOST_JOURNAL))
            pairs = [(staging / s["source"], staging.parent / s["name"]) for s in steps]
            moves = cls(pairs)
            moves._identities = {s["name"]: tuple(s["identity"]) for s in steps}
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return  # killed before anything was moved
        names = [name for s in steps for name in (s["name"], s["source"])]
        if any(Path(name).name != name for name in names):
            return
        primary = pairs[-1][1]
        if _identity(primary) != moves._identities[primary.name]:
            moves.undo()


def _identity(path: Path) -> tuple[int, ...] | None:
    """What a rename leaves as it is. Of a folder the inode, since its time may be of the rename."""
    try:
        status = path.lstat()
    except OSError:
        return None
    same = (status.st_dev, status.st_ino)
    if stat.S_ISDIR(status.st_mode):
        return same
    return (*same, status.st_size, status.st_mtime_ns)


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name, follow_symlinks=False)
    except (OSError, NotImplementedError):
        # A file system without hard links.
        shutil.copy2(path, name, follow_symlinks=False)


def _put_back(source: Path, old: Path, place: Path) -> None:
    if os.path.lexists(old):
        os.replace(old, place)
    elif source.is_dir() and place.is_dir():
        _exchange(source, place)
    elif place.is_dir() and not place.is_symlink():
        os.rename(place, source)
    else:
        place.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time in a folder. Where it cannot be locked, or not soon, it goes on without."""
    try:
        import fcntl
    except ImportError:
        yield  # Windows locks no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def put(source: Path, target: Path, *, overwrite: bool) -> None:
    """Move a file or folder into place in one step where the system can.

    :raises FileExistsError: the target exists, and `overwrite` is not set.
    """
    if not overwrite:
        _rename_new(source, target)
    elif source.is_dir() and os.path.lexists(target):
        _exchange(source, target)
    else:
        check_kind(source, target)
        os.replace(source, target)


def check_kind(source: Path, target: Path) -> None:
    """A file does not replace a folder, whose contents nobody has asked about.

    :raises IsADirectoryError: it would have to.
    """
    if target.is_dir() and not target.is_symlink() and not source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))


def _rename_new(source: Path, target: Path) -> None:
    if _renameat2(source, target, exchange=False):
        return
    if source.is_dir() or sys.platform == "win32":
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        os.rename(source, target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: the check and the rename are two steps there.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        os.rename(source, target)
    else:
        source.unlink()


def _exchange(source: Path, target: Path) -> None:
    """Exchange two paths; what was at the target ends up in staging, and goes with it."""
    if _renameat2(source, target, exchange=True):
        return
    aside = source.with_name(source.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise


def _renameat2(source: Path, target: Path, *, exchange: bool) -> bool:
    """Linux's renameat2 and macOS's renamex_np. False where the system has neither."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        at_fdcwd, noreplace, swap = -100, 1, 2
        code = libc.renameat2(  # type: ignore[union-attr]
            at_fdcwd,
            os.fsencode(source),
            at_fdcwd,
            os.fsencode(target),
            swap if exchange else noreplace,
        )
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        swap, exclusive = 2, 4
        code = libc.renamex_np(  # type: ignore[union-attr]
            os.fsencode(source), os.fsencode(target), swap if exchange else exclusive
        )
    else:
        return False
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False  # an old kernel, or a file system that cannot
    raise OSError(number, os.strerror(number), str(target))
