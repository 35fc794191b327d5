"""The folder of one isolated plugin: a virtual environment that is never moved.

The name of a folder proves nothing: nothing is deleted but what holds the marker that each
environment is begun with, or the entry that it ends with.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from timmx_core.plugins.environments.index import (
    ENTRY_FILE,
    FOLDER,
    Entry,
    environments,
    read_index,
)
from timmx_core.plugins.environments.locks import locked_if_free
from timmx_core.reading.regular import read_regular

MARKER = "timmx-environment.json"
MOST_MARKER = 16 << 20


@dataclass(frozen=True)
class Environment:
    """A virtual environment; scripts in it hold its path, so it is made where it stays."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        if os.name == "nt":
            return self.folder / "Scripts" / "python.exe"
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> list[Path]:
        """Where its packages lie."""
        return [*self.folder.glob("lib/python*/site-packages"), self.folder / "Lib/site-packages"]

    @property
    def trouble(self) -> str:
        """Why nothing can be run in it, from a look at the disk; empty where something can."""
        if not self.folder.is_dir():
            return f"its environment is gone ({self.folder})"
        if not self.python.exists():
            return f"the Python of its environment is gone ({_destination(self.python)})"
        return ""

    def begin(self) -> None:
        """Make the folder, with nothing in it but what proves it to be timmx's.

        :raises OSError: it cannot be made, or is there already.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir()
        text = json.dumps({"made by": "timmx", "folder": self.folder.name})
        (self.folder / MARKER).write_text(text, encoding="utf-8")

    @property
    def is_ours(self) -> bool:
        """Whether it was begun or finished by timmx, in this place; a link or a copy was not."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return self.folder.name in (self._named_in(MARKER), self._named_in(ENTRY_FILE, "entry"))

    def _named_in(self, file: str, *way: str) -> object:
        """What folder a file in it says that it is."""
        try:
            content = json.loads(read_regular(self.folder / file, MOST_MARKER))
            for step in way:
                content = content[step]
            return content["folder"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def remove(self) -> bool:
        """Delete it if it is timmx's, as far as that can be done; what stays is swept up later.

        :return: whether it is gone.
        """
        proof = (MARKER, ENTRY_FILE)
        with contextlib.suppress(OSError):
            if not self.is_ours:
                self.folder.rmdir()  # killed before it was marked: it is empty, or stays
                return True
            # What proves it goes last, or what is killed in between would stay for ever.
            for path in self.folder.iterdir():
                if path.name not in proof:
                    _delete(path)
            if all(path.name in proof for path in self.folder.iterdir()):
                shutil.rmtree(self.folder, ignore_errors=True)
        return not os.path.lexists(self.folder)


def new_environment(name: str) -> Environment:
    """A place that nothing else has; nothing is made there yet."""
    while True:
        environment = Environment(environments() / f"{name}-{secrets.token_hex(4)}")
        if not os.path.lexists(environment.folder):
            return environment


def environment_of(entry: Entry) -> Environment:
    """Where an entry's plugin lives."""
    return Environment(entry.path)


def leftovers(*, remove: bool = False) -> list[Path]:
    """Environments of timmx that the index does not name and that nobody is making.

    :param remove: delete them, too.
    :raises IsolationError: the index cannot be read.
    """
    found = []
    folder = environments()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = FOLDER.fullmatch(path.name)
        if match is None or path.name in known_folders():
            continue
        with locked_if_free(match["name"]) as free:
            # Asked again: it may have been finished just before the lock was free.
            if free and path.name not in known_folders() and Environment(path).is_ours:
                found.append(path)
                if remove:
                    Environment(path).remove()
    return found


def known_folders() -> set[str]:
    """The folders that the index names.

    :raises IsolationError: it cannot be read.
    """
    return {entry.folder for entry in read_index().values()}


def sweep(name: str) -> None:
    """Remove what a killed run left of this plugin. The caller holds the plugin's lock."""
    known = known_folders()
    for path in environments().glob(f"{name}-*"):
        match = FOLDER.fullmatch(path.name)
        if match is not None and match["name"] == name and path.name not in known:
            Environment(path).remove()


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _destination(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return str(link)
