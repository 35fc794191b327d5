"""Opening files that somebody else may have put in their places.

A pipe under the name of a file is waited for for ever, and a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes.

    :raises OSError: it cannot be opened, or is something else; its `strerror` says what.
    """
    _check(Path(path).stat().st_mode, path)  # opening a device may set it in motion
    return open(path, "rb", opener=_open)


def read_regular(path: str | Path, most: int = -1) -> bytes:
    """The bytes of a regular file.

    :param most: no more than that; negative: all.
    :raises OSError: see `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(most)


def _open(path: str, flags: int) -> int:
    """Without waiting, should a pipe have come there since it was looked at."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, and no file", str(path))
