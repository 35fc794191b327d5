"""Holding Ctrl-C and its like back for a moment, where half a step would leave a mess."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that Python handles wait until the end of the block, and take effect there.

    Handlers run in the main thread alone; elsewhere, and for signals that Python does not handle,
    there is nothing to hold back. For steps of milliseconds only.
    """
    if current_thread() is not main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    handlers = {n: signal.getsignal(n) for n in numbers}
    held = {n: handler for n, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)
