"""Putting finished files in place: the target is the old one or the complete new one.

Companions first, then the record, the primary last: who sees the primary sees all of it. What
fails on the way is taken back, and after a SIGKILL the next run in the folder does so. A mixture of
two runs, where a system can neither lock a folder nor undo, shows in the record's digests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from timmx_core.errors import OutputError
from timmx_core.files import ownership
from timmx_core.files.file_transaction import Moves, check_kind, locked, put
from timmx_core.files.records import RECORD_SUFFIX, read_record, record_path, sha256
from timmx_core.files.staging import output_error

__all__ = [
    "RECORD_SUFFIX",
    "files_of",
    "keep",
    "member_digests",
    "publish",
    "put",
    "read_record",
    "record_path",
    "sha256",
    "size_of",
]


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


def publish(
    primary: Path,
    companions: tuple[Path, ...],
    record: Path,
    target: Path,
    *,
    naming: ownership.Naming,
    overwrite: bool,
) -> tuple[Path, ...]:
    """Move staged files to their places: all of them, or none.

    Companions of a file that is replaced go, where the new one has none of that name; what is not
    provably its own stays, and is not replaced either. A companion that is in its place already,
    byte for byte, is used as it is, whoever put it there: from then on the record lists it, and by
    that it belongs to the file unless another one's record lists it, too. One run at a time does so
    in a folder, where the system can lock one.

    :param naming: how the format names companions.
    :return: where the companions are now.
    :raises OutputError: a target exists, belongs to another file, or cannot be written; then all
        is as it was.
    """
    folder = target.parent
    places = tuple(folder / companion.name for companion in companions)
    pairs = list(zip(companions, places, strict=True))
    last = [(record, record_path(target)), (primary, target)]
    try:
        with locked(folder):
            check_kind(primary, target)
            new = [pair for pair in pairs if not ownership.same(*pair)]
            ownership.check_places(target, [p for _, p in new], naming, overwrite=overwrite)
            old = ownership.removable(target, naming, places) if overwrite else []
            moves = Moves([*new, *last])
            moves.prepare()
            try:
                for source, place in new:
                    put(source, place, overwrite=overwrite)
                put(record, record_path(target), overwrite=True)
                put(primary, target, overwrite=overwrite)
            except BaseException:
                moves.undo()
                raise
            for path in old:
                with contextlib.suppress(OSError):
                    path.unlink()
    except FileExistsError as error:
        taken = error.filename2 or error.filename or target
        raise OutputError(
            f"{taken} exists already", "replace it with --overwrite, or choose -o"
        ) from None
    except OSError as error:
        raise output_error(error, target) from None
    return places


def keep(primary: Path, companions: tuple[Path, ...], record: Path, folder: Path) -> Path:
    """Move a file that is not published into a folder for inspection.

    What is in the folder stays: where one of the names is taken, a folder within is made.

    :return: the primary, where it is now.
    :raises OutputError: the folder cannot be written.
    """
    wanted = [(path, path.name) for path in (*companions, primary)]
    wanted.append((record, record_path(primary).name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            folder = _free(folder, [name for _, name in wanted])
            for path, name in wanted:
                shutil.move(path, folder / name)
    except OSError as error:
        raise output_error(error, folder) from None
    return folder / primary.name


def _free(folder: Path, names: list[str]) -> Path:
    """The folder itself, or the first `failed-N` within it, that has none of these names."""
    if not any(os.path.lexists(folder / name) for name in names):
        return folder
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            inner = folder / f"failed-{number}"
            inner.mkdir()
            return inner
    raise AssertionError  # counting does not end
