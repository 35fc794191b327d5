"""The process that calls: one export in it at a time, and afterwards it is as it was before.

Converters and the libraries below them set environment variables, put folders on `sys.path` and
take hold of logging. Much of that, like descriptors 1 and 2, belongs to the process and not to a
thread, and what is taken and given back by two threads in turns is never whole again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# One thread may come in again: a format or a reporter that calls timmx meanwhile.
_TURN = threading.RLock()


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Wait until no other thread is in here, then put back what the block has changed.

    Covers environment variables, `sys.path`, the working folder and the levels and root handlers
    of logging. What belongs to PyTorch is in `timmx_core.process.torch_state`.
    """
    with _TURN, ExitStack() as stack:
        for keep in (_environment, _paths, _folder, _logging):
            stack.callback(keep())
        yield


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def put_back() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return put_back


def _paths() -> Callable[[], None]:
    path, entries = sys.path, list(sys.path)

    def put_back() -> None:
        sys.path = path
        if path != entries:
            path[:] = entries

    return put_back


def _folder() -> Callable[[], None]:
    def current() -> Path | None:
        with suppress(OSError):  # the folder was removed
            return Path.cwd()
        return None

    before = current()

    def put_back() -> None:
        if before is not None and current() != before:
            with suppress(OSError):  # it was removed meanwhile
                os.chdir(before)

    return put_back


def _logging() -> Callable[[], None]:
    root = logging.getLogger()
    known = [root, *(x for x in root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    levels = [(logger, logger.level) for logger in known]
    handlers, disabled = list(root.handlers), root.manager.disable

    def put_back() -> None:
        for logger, level in levels:
            if logger.level != level:
                logger.setLevel(level)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
        for handler in [h for h in handlers if h not in root.handlers]:
            root.addHandler(handler)
        logging.disable(disabled)

    return put_back
