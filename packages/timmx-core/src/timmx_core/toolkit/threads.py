"""How many threads a runtime is given."""

from __future__ import annotations

import os

MOST_THREADS = 8  # more gain nothing on one image


def usable_threads() -> int:
    """The processors that this process may use, up to a sensible number.

    .. versionadded:: 0.1
    """
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_THREADS)
    return min(os.cpu_count() or 1, MOST_THREADS)
