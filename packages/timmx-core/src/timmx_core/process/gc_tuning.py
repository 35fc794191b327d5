"""How often Python looks for garbage while a model is exported.

Imports and converters make objects by the hundred thousand that live on, and by default every 700
of them Python goes through the young ones again. That is a fifth of the time in which torch and
timm are imported, and a tenth of a conversion.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 20_000  # rarer gains nothing more, and keeps copies of weights that are done with


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for garbage once in `OBJECTS` new objects; a process that does so less is left alone."""
    first, *others = gc.get_threshold()
    if not 0 < first < OBJECTS:
        yield
        return
    gc.set_threshold(OBJECTS, *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)
