"""Where timmx keeps what outlives a run: logs and caches."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$TIMMX_HOME`, or the platform's folder for a user's application data."""
    chosen = os.environ.get("TIMMX_HOME")
    if chosen:
        # Absolute, for what is made in it holds its path.
        return Path(os.path.abspath(chosen))
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
