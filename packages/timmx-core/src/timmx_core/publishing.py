"""Putting finished files in place: the target is the old one or the complete new one.

Companions first, then the record, the primary last: who sees the primary sees all of it. A
mixture of two runs, which several files with fixed names cannot rule out, shows in the record's
digests.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from timmx_core.errors import OutputError
from timmx_core.staging import output_error

RECORD_SUFFIX = ".timmx.json"
CHUNK = 1 << 20


def record_path(primary: Path) -> Path:
    """`model.onnx` has its record in `model.onnx.timmx.json`."""
    return primary.with_name(primary.name + RECORD_SUFFIX)


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def member_digests(primary: Path, companions: Iterable[Path]) -> dict[str, str]:
    """sha256 of each file of an artifact, by its path relative to the primary's folder."""
    members: dict[str, str] = {}
    for path in (primary, *companions):
        for file in files_of(path):
            members[file.relative_to(primary.parent).as_posix()] = sha256(file)
    return members


def files_of(path: Path) -> list[Path]:
    """A file itself, or the files in a folder, sorted. Links are not followed."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files and folders."""
    return sum(file.stat().st_size for path in paths for file in files_of(path))


def check_target(target: Path, companions: Iterable[Path], overwrite: bool) -> None:
    """Refuse what would be lost.

    :raises OutputError: one of them exists, and `overwrite` is not set.
    """
    for path in (target, *companions):
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists already", "replace it with --overwrite, or choose -o")


def publish(
    primary: Path,
    companions: tuple[Path, ...],
    record: Path,
    target: Path,
    *,
    overwrite: bool,
    shared_names: frozenset[str] = frozenset(),
) -> tuple[Path, ...]:
    """Move staged files to their places.

    :param shared_names: companions named by content, which may be there already.
    :return: where the companions are now.
    :raises OutputError: a target exists, or cannot be written.
    """
    folder = target.parent
    places = tuple(folder / companion.name for companion in companions)
    placed: list[Path] = []
    try:
        check_target(target, (p for p in places if p.name not in shared_names), overwrite)
        for staged, place in zip((*companions, primary), (*places, target), strict=True):
            _check_kind(staged, place)
        for companion, place in zip(companions, places, strict=True):
            fresh = not os.path.lexists(place)
            put(companion, place, overwrite=overwrite or companion.name in shared_names)
            if fresh:
                placed.append(place)
        fresh_record = not os.path.lexists(record_path(target))
        if not fresh_record and not overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        put(record, record_path(target), overwrite=True)
        if fresh_record:
            placed.append(record_path(target))
        put(primary, target, overwrite=overwrite)
    except OSError as error:
        for path in placed:
            with contextlib.suppress(OSError):
                path.unlink()
        if error.errno == errno.EEXIST:
            raise OutputError(
                f"{target} exists already", "replace it with --overwrite, or choose -o"
            ) from None
        raise output_error(error, target) from None
    return places


def put(source: Path, target: Path, *, overwrite: bool) -> None:
    """Move a file or folder into place in one step where the system can.

    :raises FileExistsError: the target exists, and `overwrite` is not set.
    """
    if not overwrite:
        _rename_new(source, target)
    elif source.is_dir() and os.path.lexists(target):
        _exchange(source, target)
    else:
        _check_kind(source, target)
        os.replace(source, target)


def _check_kind(source: Path, target: Path) -> None:
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


def remove_stale(target: Path, old_members: Iterable[str], new_members: Iterable[str]) -> None:
    """After a replacement, remove companions of the old file that the new one does not have.

    Only plain names beside the target, as its old record lists them.
    """
    for name in set(old_members) - set(new_members):
        path = target.parent / name
        if Path(name).name == name and path != target and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def keep(primary: Path, companions: tuple[Path, ...], record: Path, folder: Path) -> Path:
    """Move a file that is not published into a folder for inspection.

    :raises OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*companions, primary):
            place = folder / path.name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            shutil.move(path, place)
        shutil.move(record, record_path(folder / primary.name))
    except OSError as error:
        raise output_error(error, folder) from None
    return folder / primary.name
