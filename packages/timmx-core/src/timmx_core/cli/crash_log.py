"""The log of an unexpected bug: traceback and versions, for the report."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
import traceback
from pathlib import Path

from timmx_core.process.paths import log_dir

DISTRIBUTIONS = ("timmx-core", "timm", "torch", "numpy", "click")


def write_crash_log(error: BaseException) -> Path | None:
    """Write the log of a bug; None where no log can be written."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = log_dir() / f"{stamp}-{os.getpid()}-crash.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(error), encoding="utf-8", errors="replace")
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()  # a part of it
        return None  # the bug itself still has to be told
    return path


def _text(error: BaseException) -> str:
    lines = [
        f"command: {' '.join(sys.argv)}",
        f"python: {sys.version}",
        f"platform: {platform.platform()}",
        *_version_lines(),
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines)


def _version_lines() -> list[str]:
    try:
        from timmx_core.files.manifest import versions_of
        from timmx_core.plugins.manager import get_manager

        distributions = [row.distribution for row in get_manager().rows if row.distribution]
        versions = versions_of([*DISTRIBUTIONS, *distributions])
    except Exception as problem:  # noqa: BLE001 (the bug may lie in what is asked here)
        return [f"versions: unknown ({problem})"]
    return [f"{name}: {version}" for name, version in versions.items()]
