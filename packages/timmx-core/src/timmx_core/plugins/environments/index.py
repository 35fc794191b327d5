"""`plugins.json`: which plugins have an environment of their own, and how to make it again.

It lies in timmx's home, outside every environment, so that upgrading or losing one loses no
plugin. It is replaced in one step and read without a lock; whoever changes it holds one. A copy of
its entry lies in each environment, so that a lost index can be put together again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timmx_core.errors import IsolationError
from timmx_core.process.paths import home
from timmx_core.reading.regular import read_regular

SCHEMA = 1
ENTRY_FILE = "timmx-plugin.json"
REPAIR = "timmx plugins repair"
# Names stand in those of locks and folders, and in patterns of them.
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
FOLDER = re.compile(rf"(?P<name>{NAME.pattern})-[0-9a-f]{{8}}")
LOCK = "plugins.json"  # of the index; no plugin can have that name


class DamagedIndexError(IsolationError):
    """The index is there, and is none."""


@dataclass(frozen=True)
class Recipe:
    """What an environment is made from; the words are those that pip takes."""

    requirement: tuple[str, ...]
    core: tuple[str, ...]
    further: tuple[str, ...] = ()
    python: str | None = None  # None: the host's own
    index_url: str | None = None
    find_links: tuple[str, ...] = ()
    local: bool = False  # a source tree, which has no versions to tell one state from the next


@dataclass(frozen=True)
class Entry:
    """One isolated plugin."""

    name: str  # the short name: "litert"
    distribution: str
    version: str
    origin: str  # where the distribution came from, for people
    folder: str  # of its environment, below `environments()`
    recipe: Recipe
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`timmx-litert 0.1.0`."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def path(self) -> Path:
        """The environment's folder."""
        return environments() / self.folder


def environments() -> Path:
    """The folder of all environments."""
    return home() / "envs"


def index_file() -> Path:
    """Where the index lies."""
    return home() / "plugins.json"


def read_index() -> dict[str, Entry]:
    """Entries by name; empty where nothing was ever isolated.

    :raises DamagedIndexError: it is no index.
    :raises IsolationError: it cannot be opened, or was written by a newer timmx.
    """
    path = index_file()
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IsolationError(
            f"the index of isolated plugins cannot be read: {error.strerror} ({path})",
            "see to its permissions, or set TIMMX_HOME",
        ) from None
    try:
        content = json.loads(data)
        schema = content["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise IsolationError(
                f"the index of isolated plugins was written by a newer timmx ({path}: schema "
                f"{schema}, and this one knows {SCHEMA})",
                "pip install --upgrade timmx-core, or set TIMMX_HOME to a folder of this one's own",
            )
        entries = {name: entry_from_json(entry) for name, entry in content["plugins"].items()}
        if any(name != entry.name for name, entry in entries.items()):
            raise ValueError("an entry under another's name")
        return entries
    except IsolationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedIndexError(
            f"the index of isolated plugins is damaged ({path})",
            f"{REPAIR} puts it together again from the environments",
        ) from None


def change_index(change: Callable[[dict[str, Entry]], None]) -> None:
    """Read, change and replace the index, with no one else in between.

    :raises IsolationError: it cannot be read or written; it is what it was then.
    """
    from timmx_core.plugins.environments.locks import locked

    with locked(LOCK):
        entries = read_index()
        change(entries)
        write_index(entries)


def write_index(entries: Mapping[str, Entry]) -> None:
    """Replace the index in one step.

    :raises IsolationError: the disk is full, or not to be written to.
    """
    plugins = {name: asdict(entries[name]) for name in sorted(entries)}
    content = {"schema": SCHEMA, "plugins": plugins}
    try:
        replace_file(index_file(), json.dumps(content, indent=1).encode())
    except OSError as error:
        raise IsolationError(
            f"the index of isolated plugins cannot be written: {error.strerror or error}",
            f"make room for {index_file()}, or set TIMMX_HOME",
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """The old content or the new one, never a part.

    :raises OSError: from writing; the old file is there then.
    """
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def keep_entry(entry: Entry) -> None:
    """Leave a copy of the entry in its environment.

    :raises OSError: from writing.
    """
    content = {"schema": SCHEMA, "entry": asdict(entry)}
    replace_file(entry.path / ENTRY_FILE, json.dumps(content, indent=1).encode())


def kept_entries() -> Iterator[Entry]:
    """The entries that environments on the disk hold of themselves, the oldest first."""
    files = [(path.stat().st_mtime, path) for path in environments().glob(f"*/{ENTRY_FILE}")]
    for _, path in sorted(files):
        try:
            kept = json.loads(read_regular(path))["entry"]
            yield entry_from_json({**kept, "folder": path.parent.name})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # an environment that was not finished


def entry_from_json(data: Mapping[str, Any]) -> Entry:
    """:raises KeyError, TypeError, ValueError: it is no entry."""
    words = ("name", "distribution", "version", "origin", "folder")
    texts = {key: _text(data[key]) for key in words}
    if not all(text.isprintable() for text in texts.values()):
        raise ValueError("a word that is more than a line")
    match = FOLDER.fullmatch(texts["folder"])
    if NAME.fullmatch(texts["name"]) is None or match is None or match["name"] != texts["name"]:
        raise ValueError("no name of a plugin, or no folder of one of its environments")
    made = data["recipe"]
    recipe = Recipe(
        requirement=_texts(made["requirement"]),
        core=_texts(made["core"]),
        further=_texts(made.get("further", ())),
        python=made.get("python"),
        index_url=made.get("index_url"),
        find_links=_texts(made.get("find_links", ())),
        local=bool(made.get("local", False)),
    )
    return Entry(**texts, recipe=recipe, description=dict(data["description"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError
    return tuple(_text(item) for item in value)
