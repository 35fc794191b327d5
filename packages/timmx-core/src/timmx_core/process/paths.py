"""Paths: where timmx keeps what outlives a run, and what paths are that a user names."""

from __future__ import annotations

import os
from pathlib import Path

from timmx_core.errors import RequestError


def absolute(path: str | Path) -> Path:
    """A path that is one from everywhere, without `..`.

    :raises RequestError: it is relative to a working folder that has been removed.
    """
    path = Path(path)
    return Path(os.path.abspath(path if path.is_absolute() else working_folder() / path))


def working_folder() -> Path:
    """The folder that relative paths begin at.

    :raises RequestError: it has been removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise RequestError(
            "the folder that this was started in does not exist any more",
            "change to one that does: cd ~",
        ) from None


def home() -> Path:
    """`$TIMMX_HOME`, or the platform's folder for a user's application data.

    :raises RequestError: see `absolute`.
    """
    chosen = os.environ.get("TIMMX_HOME")
    if chosen:
        # Absolute, for what is made in it holds its path.
        return absolute(chosen)
    from platformdirs import user_data_path

    return user_data_path("timmx", appauthor=False)


def is_text(path: str | Path) -> bool:
    """Whether a path can be spelt in UTF-8, as records are and as most libraries open files."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def log_dir() -> Path:
    """Logs of failed runs."""
    return home() / "logs"


def cache_dir() -> Path:
    """What can be made again."""
    return home() / "cache"
