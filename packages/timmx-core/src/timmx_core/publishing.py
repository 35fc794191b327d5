"""Putting finished files in place: the target is the old one or the complete new one.

Companions first, then the record, the primary last: who sees the primary sees all of it. What
fails on the way is taken back, and after a SIGKILL the next run in the folder does so. A mixture of
two runs, where a system can neither lock a folder nor undo, shows in the record's digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timmx_core import manifest as manifests
from timmx_core.errors import ArtifactError, OutputError, TimmxError
from timmx_core.moves import Moves, locked, put
from timmx_core.staging import output_error

RECORD_SUFFIX = ".timmx.json"
CHUNK = 1 << 20


def record_path(primary: Path) -> Path:
    """`model.onnx` has its record in `model.onnx.timmx.json`."""
    return primary.with_name(primary.name + RECORD_SUFFIX)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record beside a file; None where there is none.

    :raises ArtifactError: it is there and broken.
    """
    if not path.name:
        return None  # "." and "/"
    beside = record_path(path)
    if not os.path.lexists(beside):
        return None
    if not beside.is_file():
        raise ArtifactError(f"the record {beside} is no file")  # a pipe would be read for ever
    try:
        with beside.open("rb") as file:
            data = file.read(manifests.MOST_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read the record {beside}: {error.strerror}") from None
    try:
        return manifests.parse(data, "record")
    except ArtifactError as error:
        raise ArtifactError(
            f"{beside}: {error.message}", error.hint or "take it again from where it was exported"
        ) from None


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
) -> tuple[Path, ...]:
    """Move staged files to their places: all of them, or none.

    Companions of a file that is replaced go, where the new one has none of that name. One run at a
    time does so in a folder, where the system can lock one.

    :return: where the companions are now.
    :raises OutputError: a target exists, or cannot be written; then all is as it was.
    """
    folder = target.parent
    places = tuple(folder / companion.name for companion in companions)
    pairs = list(zip(companions, places, strict=True))
    last = [(record, record_path(target)), (primary, target)]
    try:
        with locked(folder):
            check_target(target, places, overwrite)
            old = _members(target)
            moves = Moves([*pairs, *last])
            moves.prepare()
            try:
                for source, place in pairs:
                    put(source, place, overwrite=overwrite)
                put(record, record_path(target), overwrite=True)
                put(primary, target, overwrite=overwrite)
            except BaseException:
                moves.undo()
                raise
            remove_stale(target, old, [target.name, *(place.name for place in places)])
    except FileExistsError:
        raise OutputError(
            f"{target} exists already", "replace it with --overwrite, or choose -o"
        ) from None
    except OSError as error:
        raise output_error(error, target) from None
    return places


def _members(target: Path) -> list[str]:
    """What the record of an earlier file lists; nothing where there is no readable record."""
    try:
        record = read_record(target)
    except TimmxError:
        return []
    return list(record["members"]) if record is not None else []


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

    What is in the folder stays: where one of the names is taken, a folder within is made.

    :return: the primary, where it is now.
    :raises OutputError: the folder cannot be written.
    """
    wanted = [(path, path.name) for path in (*companions, primary)]
    wanted.append((record, record_path(primary).name))
    try:
        folder = _free(folder, [name for _, name in wanted])
        for path, name in wanted:
            shutil.move(path, folder / name)
    except OSError as error:
        raise output_error(error, folder) from None
    return folder / primary.name


def _free(folder: Path, names: list[str]) -> Path:
    """The folder itself, or the first `failed-N` within it, that has none of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(os.path.lexists(folder / name) for name in names):
        return folder
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            inner = folder / f"failed-{number}"
            inner.mkdir()
            return inner
    raise AssertionError  # counting does not end
