"""What the user wants installed: a short name, a path, or a requirement; and where core is from."""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from timmx_core.errors import IsolationError, RequestError
from timmx_core.process.paths import absolute
from timmx_core.reading.regular import read_regular

CORE = "timmx-core"
PREFIX = "timmx-"
PLAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
ARCHIVES = (".whl", ".tar.gz", ".zip")


@dataclass(frozen=True)
class Wanted:
    """One plugin to install."""

    name: str  # of its environment: "litert"
    distribution: str
    arguments: tuple[str, ...]  # as pip takes them
    source: str = ""  # a path or URL; empty: from the package index
    local: bool = False  # a source tree


def read_wanted(text: str) -> Wanted:
    """`litert`, `./packages/timmx-litert`, `some.whl`, `timmx-litert>=0.2`, `x @ git+...`.

    :raises RequestError: it is none of these, or a path that holds no distribution.
    """
    if _is_path(text):
        return _from_path(Path(text).expanduser())
    if PLAIN.fullmatch(text):
        name = canonicalize_name(text)
        distribution = name if name.startswith(PREFIX) else PREFIX + name
        return Wanted(short_name(distribution), distribution, (distribution,))
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise RequestError(
            f"{text!r} is no plugin's name, path or requirement: {str(error).splitlines()[0]}",
            "as in: litert, ./packages/timmx-litert, 'timmx-litert>=0.2'",
        ) from None
    name = canonicalize_name(requirement.name)
    return Wanted(short_name(name), name, (text,), requirement.url or "")


def short_name(distribution: str) -> str:
    """`litert` for timmx-litert; a name of another kind as it is."""
    return canonicalize_name(distribution).removeprefix(PREFIX)


def _is_path(text: str) -> bool:
    separators = {"/", os.sep, os.altsep or os.sep}
    requirement = " @ " in text or "://" in text
    named = any(sign in text for sign in separators) or text.startswith((".", "~"))
    return not requirement and (named or text.endswith(ARCHIVES))


def _from_path(path: Path) -> Wanted:
    path = absolute(path)
    if path.is_dir():
        distribution = _project_name(path)
    elif path.is_file():
        distribution = _archive_name(path)
    else:
        raise RequestError(f"{path} does not exist")
    return Wanted(
        short_name(distribution), distribution, (str(path),), str(path), local=path.is_dir()
    )


def _project_name(folder: Path) -> str:
    try:
        project = tomllib.loads(read_regular(folder / "pyproject.toml").decode())
        return canonicalize_name(project["project"]["name"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(
            f"{folder} holds no distribution: no pyproject.toml with a [project] and its name"
        ) from None


def _archive_name(path: Path) -> str:
    try:
        if path.suffix == ".whl":
            return parse_wheel_filename(path.name)[0]
        return parse_sdist_filename(path.name)[0]
    except (InvalidWheelFilename, InvalidSdistFilename):
        raise RequestError(f"{path} is neither a wheel nor an sdist by its name") from None


def version_at(url: str) -> str:
    """The version of what lies at a file's URL, where its name or its pyproject.toml says it."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return ""
    path = Path(url2pathname(parts.path))
    try:
        if path.suffix == ".whl":
            return str(parse_wheel_filename(path.name)[1])
        if path.is_file():
            return str(parse_sdist_filename(path.name)[1])
        project = tomllib.loads(read_regular(path / "pyproject.toml").decode())
        return str(project["project"].get("version", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def core_requirement() -> tuple[tuple[str, ...], str]:
    """Core as the host has it: what pip takes, and where that comes from, for people.

    A checkout stays a checkout, a wheel that is still there is used again, and a release comes
    from the package index in the same version.

    :raises IsolationError: it came from a path that is gone; what an index has under that name and
        version need not be the same.
    """
    distribution = metadata.distribution(CORE)
    release = (f"{CORE}=={distribution.version}",)
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "null")
    except ValueError:
        direct = None
    if not isinstance(direct, dict) or not isinstance(direct.get("url"), str):
        return release, f"{CORE} {distribution.version}"
    return _from_direct_url(direct)


def _from_direct_url(direct: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    url = direct["url"]
    parts = urlsplit(url)
    fragment = f"#subdirectory={direct['subdirectory']}" if direct.get("subdirectory") else ""
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path)) / direct.get("subdirectory", "")
        if not path.exists():
            raise IsolationError(
                f"{CORE} was installed here from {path}, which is gone",
                f"install it again, from where it is now or from the index: pip install "
                f"--force-reinstall {CORE}",
            )
        editable = bool(direct.get("dir_info", {}).get("editable"))
        return (("-e", str(path)) if editable else (str(path),)), str(path)
    if "vcs_info" in direct:
        vcs = direct["vcs_info"]
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return (f"{CORE} @ {url}{fragment}",), url
