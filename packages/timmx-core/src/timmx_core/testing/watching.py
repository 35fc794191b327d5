"""Folders that nobody may write to, watched."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

FOLDERS = ("cwd", "home", "tmp")
CACHE = "home/.cache"  # where libraries may keep what they can make again


class Watch:
    """A working folder, a home and a temporary folder of their own, and what changed in them."""

    def __init__(
        self, parent: Path, patch: pytest.MonkeyPatch, accepted: Iterable[str] = ()
    ) -> None:
        """:param accepted: paths like "home/.vendor", which are not watched."""
        self.parent = parent
        self.unwatched = (CACHE, *accepted)
        for name in FOLDERS:
            (parent / name).mkdir()
        patch.chdir(parent / "cwd")
        patch.setenv("HOME", str(parent / "home"))
        patch.setenv("USERPROFILE", str(parent / "home"))
        for variable in ("TMPDIR", "TEMP", "TMP"):
            patch.setenv(variable, str(parent / "tmp"))
        # torch makes a folder in the temporary one as soon as it captures, unless told where.
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(parent / CACHE / "torchinductor"))
        patch.setattr(tempfile, "tempdir", None)
        self.before = self._snapshot()

    def changes(self) -> list[str]:
        """Paths that came, went or changed since."""
        after = self._snapshot()
        return sorted(
            name
            for name in self.before.keys() | after.keys()
            if self.before.get(name) != after.get(name)
        )

    def _snapshot(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.parent.rglob("*"):
            name = path.relative_to(self.parent).as_posix()
            if any(name == path or name.startswith(path + "/") for path in self.unwatched):
                continue
            status = path.lstat()
            # Of a folder only its being there: a temporary file that is gone again changed nothing.
            size, changed = (-1, -1) if path.is_dir() else (status.st_size, status.st_mtime_ns)
            found[name] = (size, changed)
        return found
