"""The folder of one isolated plugin: a virtual environment that is never moved."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from timmx_core.plugins.environments.index import FOLDER, Entry, environments, read_index
from timmx_core.plugins.environments.locks import locked_if_free


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

    def remove(self) -> None:
        """Delete it, as far as that can be done; what stays is swept up later."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new_environment(name: str) -> Environment:
    """A place that no other environment has; nothing is made there yet."""
    return Environment(environments() / f"{name}-{secrets.token_hex(4)}")


def environment_of(entry: Entry) -> Environment:
    """Where an entry's plugin lives."""
    return Environment(entry.path)


def leftovers(*, remove: bool = False) -> list[Path]:
    """Environments that the index does not name and that nobody is making.

    :param remove: delete them, too.
    :raises IsolationError: the index cannot be read.
    """
    found = []
    folder = environments()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = FOLDER.fullmatch(path.name)
        if match is None or not path.is_dir() or path.is_symlink() or path.name in known_folders():
            continue
        with locked_if_free(match["name"]) as free:
            # Asked again: it may have been finished just before the lock was free.
            if free and path.name not in known_folders():
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


def _destination(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return str(link)
