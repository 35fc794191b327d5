"""What a file says of itself, read without its converter and without running anything of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from timmx_core.backend import Backend
from timmx_core.errors import ArtifactError, first_line
from timmx_core.files import manifest as manifests
from timmx_core.files.records import read_record, record_path, sha256
from timmx_core.results import Inspection

MOST_MEMBERS = 10_000
CHANGED = "the weights or the graph were changed after the export"


def inspect_file(path: Path, backends: Collection[Backend]) -> Inspection:
    """Read the manifest inside and the record beside.

    :raises ArtifactError: missing, broken, or made by something else.
    """
    check_there(path)
    record = read_record(path)
    found = _embedded(path, backends)
    if found is not None:
        backend, manifest = found
        if manifest["format"] != backend.name:
            raise ArtifactError(
                f"{path} is a file of {backend.name} whose manifest says {manifest['format']}",
                "where a plugin has that format, it has to be installed: timmx plugins list",
            )
    elif record is not None:
        manifest = record["manifest"]
    else:
        raise ArtifactError(
            f"{path} holds no timmx manifest, and {record_path(path).name} is not beside it",
            "it belongs there, from where the file was exported"
            if any(path.suffix in backend.suffixes for backend in backends)
            else "it was not made by timmx, or its plugin is not installed: timmx plugins list",
        )
    intact, problems = _compare_with_record(path, manifest, record)
    changed = _content_problem(path, manifest, backends)
    if changed:
        intact, problems = False, [*problems, changed]
    return Inspection(
        path=path,
        format=manifest["format"],
        embedded=found is not None,
        manifest=manifest,
        record=record,
        intact=intact,
        problems=tuple(problems),
    )


def check_there(path: Path) -> None:
    """Whether there is something to read.

    :raises ArtifactError: there is not.
    """
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise ArtifactError(f"{path} does not exist")
    if not path.is_file() and not path.is_dir():
        raise ArtifactError(f"{path} is neither a file nor a folder")
    if not path.name or path.name == "..":
        raise ArtifactError(f"{path} is a directory", "name a file that timmx made")


def _embedded(path: Path, backends: Iterable[Backend]) -> tuple[Backend, dict[str, Any]] | None:
    """The format that finds a manifest of its own; those that know the suffix are asked first.

    Formats may share a kind of file: the first that finds one of another is the answer only where
    that other does not find it.
    """
    ordered = sorted(backends, key=lambda b: path.suffix not in b.suffixes)
    broken: ArtifactError | None = None
    others: tuple[Backend, dict[str, Any]] | None = None
    for backend in ordered:
        try:
            data = read_embedded(path, backend)
        except ArtifactError as error:
            if path.suffix in backend.suffixes:
                broken = broken or error
            continue
        if data is not None:
            manifest = manifests.parse(data)
            if manifest["format"] == backend.name:
                return backend, manifest
            others = others or (backend, manifest)
    if broken is not None and others is None:
        raise broken
    return others


def read_embedded(path: Path, backend: Backend) -> bytes | None:
    """`Backend.read`, with whatever a plugin stumbles over in a broken file as one kind of error.

    :raises ArtifactError: it cannot be read.
    """
    try:
        return backend.read(path)
    except ArtifactError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise ArtifactError(f"{path} cannot be read as {backend.name}: {reason}") from error


def _content_problem(path: Path, manifest: Mapping[str, Any], backends: Iterable[Backend]) -> str:
    """Where the file computes something else than when it was made; empty where it does not.

    Files of older versions, and of formats that are not installed, have nothing to compare.
    """
    wanted = manifest.get("content_sha256")
    backend = next((b for b in backends if b.name == manifest["format"]), None)
    if wanted is None or backend is None:
        return ""
    try:
        found = backend.content_digest(path)
    except Exception as error:  # noqa: BLE001 - whatever a plugin stumbles over in a broken file
        return f"what the file computes cannot be read: {first_line(error)}"
    return CHANGED if found not in (None, wanted) else ""


def changed_members(path: Path) -> list[str]:
    """What is wrong with the files that the record beside `path` lists, be they readable or not.

    :return: a line each; none where there is no record that could be read.
    """
    try:
        record = read_record(path)
        return [] if record is None else _changed(path, record)
    except ArtifactError:
        return []


def _compare_with_record(
    path: Path, manifest: Mapping[str, Any], record: Mapping[str, Any] | None
) -> tuple[bool | None, list[str]]:
    if record is None:
        return None, []
    problems = _changed(path, record)
    if _canonical(record["manifest"]) != _canonical(manifest):
        problems.append("the manifest in the file is not the one of the export")
    return not problems, problems


def _changed(path: Path, record: Mapping[str, Any]) -> list[str]:
    problems = []
    if len(record["members"]) > MOST_MEMBERS:
        raise ArtifactError(f"the record lists more than {MOST_MEMBERS} files")
    folder = path.parent.resolve()
    places = {name: _member(folder, name) for name in record["members"]}
    primary = name_in(record, path)
    if primary is None:
        return [f"the record beside {path.name} is of other files"]
    for name, digest in record["members"].items():
        member = places[name]
        first, *rest = PurePosixPath(name).parts
        if first == primary:
            name = PurePosixPath(path.name, *rest).as_posix()
            member = folder / name
        try:
            if not member.is_file():
                problems.append(f"{name} is missing")
            elif sha256(member) != digest:
                problems.append(f"{name} is not the file that was exported")
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
    return problems


def name_in(record: Mapping[str, Any], path: Path) -> str | None:
    """What the record calls the file or folder that it stands beside: both may have been renamed.

    Or a changed copy would be taken for the original that still lies next to it.
    """
    names = {name.partition("/")[0] for name in record["members"]}
    if path.name in names:
        return path.name
    of_its_kind = [name for name in names if PurePosixPath(name).suffix == path.suffix]
    return of_its_kind[0] if len(of_its_kind) == 1 else None


def _member(folder: Path, name: str) -> Path:
    """A file that a record lists. A record from elsewhere must not make us read files elsewhere.

    :raises ArtifactError: it lies outside, or is named in a roundabout way.
    """
    refused = ArtifactError(f"the record names a file outside its folder: {name[:80]!r}")
    # One spelling for each file, or a record could have one hashed thousands of times.
    plain = PurePosixPath(name)
    if "\0" in name or plain.as_posix() != name or plain.is_absolute() or ".." in plain.parts:
        raise refused
    try:
        if not (folder / name).resolve().is_relative_to(folder):
            raise refused
    except (OSError, RuntimeError, ValueError):  # too long, or a circle of links
        raise refused from None
    return folder / name


def _canonical(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True)


def verdict_of(inspection: Inspection) -> str:
    """The recorded verdict as a person reads it; "unknown" without a record that fits."""
    if inspection.record is None or not inspection.intact:
        return "unknown"
    verdict = inspection.record["verdict"]
    if verdict["status"] == "verified" and verdict.get("kind") == "reference":
        return "verified (reference interpreter)"
    return str(verdict["status"])


def snippet(inspection: Inspection, backend: Backend) -> str:
    """A few lines of Python that preprocess an image and run the file.

    :raises ArtifactError: the format has no runtime in Python, or the input is no image.
    """
    body = backend.snippet(inspection.manifest)
    if body is None:
        raise ArtifactError(f"{backend.name} files do not run from Python")
    from timmx_core.files.snippets import preprocessing_lines, result_lines

    return "\n".join(
        [
            *preprocessing_lines(inspection),
            "",
            body.strip(),
            "",
            *result_lines(inspection),
            "",
        ]
    )
