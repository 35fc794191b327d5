"""Which files beside a target an export may replace or remove: those that are provably its own.

A record is text that anybody can write, copy or rename, so it gives nothing by itself. A companion
belongs to a file only if its name follows from the file's own name by the rule of the format, its
bytes have the digest in the file's record, and no other record in the folder lists it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timmx_core.backend import Backend
from timmx_core.errors import ArtifactError, OutputError
from timmx_core.files.inspection import name_in
from timmx_core.files.records import CHUNK, RECORD_SUFFIX, read_record, record_path, sha256
from timmx_core.reading.regular import open_regular

DIGITS = 8  # of a digest in a name
# Of a folder's files, in search of companions' names: some seconds.
MOST_SEARCHED = 2 << 30
MOST_NEIGHBOURS = 10_000
REMEDY = "move it away yourself, or choose another place with -o"


@dataclass(frozen=True)
class Naming:
    """How a format names the files beside its primary."""

    suffixes: tuple[str, ...] = ()  # in place of the primary's own
    hashed: tuple[str, ...] = ()  # after `<stem>-<8 digits of the companion's own sha256>`

    @classmethod
    def of(cls, backend: Backend) -> Naming:
        """As a format declares it."""
        return cls(backend.companion_suffixes, backend.hashed_companion_suffixes)

    def certain(self, primary: Path) -> list[Path]:
        """The companions whose names are known before there are any."""
        return [primary.with_name(primary.stem + suffix) for suffix in self.suffixes]

    def fits(self, primary: Path, name: str, digest: str) -> bool:
        """Whether a companion of that digest may be called so."""
        if name in (primary.stem + suffix for suffix in self.suffixes):
            return True
        return any(
            name == f"{primary.stem}-{digest[:DIGITS]}{suffix}" for suffix in self.hashed
        ) and bool(re.fullmatch(r"[0-9a-f]{64}", digest))


def companions_of(target: Path, naming: Naming) -> list[Path]:
    """The companions of the file at `target` that are its own; none where that is not certain."""
    record = _record(target)
    if record is None or name_in(record, target) is None:
        return []
    candidates = [
        (target.with_name(name), digest)
        for name, digest in record["members"].items()
        if naming.fits(target, name, digest) and name != target.name
    ]
    own = [path for path, digest in candidates if _digest(path) == digest]
    if not own:
        return []
    others = set(_listed_elsewhere(target))
    return [path for path in own if path.name not in others]


def check_places(
    target: Path, companions: Iterable[Path], naming: Naming, *, overwrite: bool
) -> None:
    """Refuse what would be lost: all that is there, or with `overwrite` all that is not its own.

    :param companions: where companions are going to lie, as far as that is known.
    :raises OutputError: names the file and what to do.
    """
    places = list(companions)
    for path in (target, *places):
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists already", "replace it with --overwrite, or choose -o")
    record = record_path(target)
    if os.path.lexists(record) and not overwrite and not _is_stale(target):
        raise OutputError(f"{record} exists already", "replace it with --overwrite, or choose -o")
    _check_folder(target)
    there = [place for place in places if os.path.lexists(place)]
    if not there:
        return
    own = companions_of(target, naming)
    for place in there:
        if place not in own:
            raise OutputError(
                f"{place} does not belong to {target.name}{_whose(target, place)}", REMEDY
            )


def same(source: Path, place: Path) -> bool:
    """Whether a file is in its place already, byte for byte."""
    return source.is_file() and _digest(place) == sha256(source)


def removable(target: Path, naming: Naming, kept: Iterable[Path]) -> list[Path]:
    """The target's own companions that its successor does not have and that nothing else needs.

    To be asked before the target is replaced, and removed after that. Where something is not
    certain, they stay: a file too many harms nobody.
    """
    record = _record(target)
    primary = None if record is None else name_in(record, target)
    if record is None or primary is None:
        return []
    digest = _digest(target)
    if digest is None or digest != record["members"].get(primary):
        return []  # the file on record was moved away, and takes its companions with it
    if any(_names_of(path) is None for path in _other_records(target)):
        return []  # a record that cannot be read may list anything
    own = companions_of(target, naming)
    names = {path.name for path in kept}
    old = [path for path in own if path.name not in names]
    if not old:
        return []
    needed = _named_elsewhere(target, own)
    return [path for path in old if path.name not in needed]


def _named_elsewhere(target: Path, own: Collection[Path]) -> set[str]:
    """Which of a target's companions other files name: a copy of it, which needs no record.

    A copy may be called anything (`model.onnx.bak`). All of them, where a file cannot be read, or
    the files are too many or too large to be read.
    """
    names = {path.name for path in own}
    passed = {target, record_path(target), *own}
    found: set[str] = set()
    try:
        others = [path for path in target.parent.iterdir() if path not in passed]
        left = MOST_SEARCHED if len(others) <= MOST_NEIGHBOURS else 0
        for path in others:
            if path.is_file():
                found |= _held(path, names, left)
                left -= path.stat().st_size
            if left < 0:
                return names
    except OSError:
        return names
    return found


def _held(path: Path, texts: Collection[str], most: int) -> set[str]:
    """Which texts stand in the first bytes of a file.

    :raises OSError: it cannot be read.
    """
    wanted = {text: os.fsencode(text) for text in texts}
    longest = max(map(len, wanted.values()))
    found: set[str] = set()
    end = b""
    with open_regular(path) as file:
        while most > 0 and (chunk := file.read(CHUNK)):
            most -= len(chunk)
            end += chunk
            found |= {text for text, data in wanted.items() if data in end}
            end = end[-longest:]
    return found


def _record(target: Path) -> Mapping[str, Any] | None:
    try:
        return read_record(target)
    except ArtifactError:
        return None


def _digest(path: Path) -> str | None:
    """Of a file; None of a link, of what is no file, and of what cannot be read."""
    try:
        return None if path.is_symlink() else sha256(path)
    except OSError:
        return None


def _is_stale(target: Path) -> bool:
    """Whether the record beside a target is one of timmx whose file has gone."""
    return not os.path.lexists(target) and _record(target) is not None


def _other_records(target: Path) -> Iterator[Path]:
    own = record_path(target)
    for path in sorted(target.parent.glob("*" + RECORD_SUFFIX)):
        if path != own:
            yield path


def _names_of(record: Path) -> set[str] | None:
    """The files in its folder that a record lists; None where it cannot be read."""
    try:
        content = read_record(record.with_name(record.name.removesuffix(RECORD_SUFFIX)))
    except ArtifactError:
        return None
    return set() if content is None else {name.partition("/")[0] for name in content["members"]}


def _listed_elsewhere(target: Path) -> Iterator[str]:
    for record in _other_records(target):
        yield from _names_of(record) or ()


def _whose(target: Path, place: Path) -> str:
    """Which file a companion belongs to instead, as far as records say."""
    for record in _other_records(target):
        if place.name in (_names_of(record) or ()):
            return f": {record.name.removesuffix(RECORD_SUFFIX)} needs it"
    return ""


def foreign_files(folder: Path) -> list[str]:
    """What lies in a folder and is not as the record beside it says; all of it without one."""
    record = _record(folder)
    members: Mapping[str, str] = {} if record is None else record["members"]
    primary = None if record is None else name_in(record, folder)
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        inner = path.relative_to(folder).as_posix()
        known = members.get(f"{primary}/{inner}")
        if known is None or _digest(path) != known:
            found.append(inner)
    return found


def _check_folder(target: Path) -> None:
    """A folder is replaced as a whole, so nothing in it may be anybody else's.

    :raises OutputError: names what would be lost.
    """
    if not target.is_dir() or target.is_symlink():
        return
    foreign = foreign_files(target)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise OutputError(
            f"{target} is a folder with files that timmx did not write, or that were changed: "
            f"{foreign[0]}{more}",
            "remove it yourself, or choose another place with -o",
        )
