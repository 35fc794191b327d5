"""What a host and an environment tell each other: events while it works, one result at the end.

`timmx --result-file FILE COMMAND ...` writes its result to FILE, and nothing to the terminal: an
object with `protocol`, `core`, and either `result` (what `--json` prints) or `error`. Beside it, in
FILE.events, it appends a line of JSON for each thing that happens:

    {"event": "hello", "protocol": 1, "core": "0.1.0"}
    {"event": "started", "label": "convert"}
    {"event": "finished", "label": "convert", "seconds": 3.2}
    {"event": "note", "text": "the weights are random"}
    {"event": "log", "level": 30, "text": "..."}

Standard output and error are the converters', and carry no meaning.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timmx_core import errors
from timmx_core.errors import TimmxError, VerificationError
from timmx_core.plugins.format_json import PROTOCOL
from timmx_core.results import Verdict


def events_path(result: Path) -> Path:
    """Where the events of that result are."""
    return result.with_name(result.name + ".events")


class Answer:
    """The environment's side. Implements `timmx_core.progress.Reporter`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # One write per event, so that a reader sees whole lines.
        self._events = os.open(
            events_path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CLOEXEC, 0o600
        )

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._events)

    def hello(self) -> None:
        """The command was found, its plugin loaded: work begins."""
        self._tell(event="hello", protocol=PROTOCOL, core=_core())

    def started(self, label: str) -> None:
        """See `Reporter.started`."""
        self._tell(event="started", label=label)

    def finished(self, label: str, seconds: float) -> None:
        """See `Reporter.finished`."""
        self._tell(event="finished", label=label, seconds=seconds)

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self._tell(event="note", text=text)

    def log(self, level: int, text: str) -> None:
        """A record of core's log."""
        self._tell(event="log", level=level, text=text)

    def result(self, content: Mapping[str, Any]) -> None:
        """What the command gives; replaces what it gave before.

        :raises OSError: it cannot be written.
        """
        data = json.dumps({"protocol": PROTOCOL, "core": _core(), **content})
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.write_text(data, encoding="utf-8", errors="surrogateescape")
        temporary.replace(self.path)

    def _tell(self, **event: Any) -> None:
        # Progress is for people: that it cannot be told harms nothing.
        with contextlib.suppress(OSError):
            os.write(self._events, json.dumps(event).encode() + b"\n")


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


class Events:
    """The host's side: what has happened since the last look."""

    def __init__(self, result: Path) -> None:
        self._path = events_path(result)
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Events in their order; a line that is not finished is left for the next look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except OSError:
            return
        whole, _, _ = data.rpartition(b"\n")
        if not whole:
            return
        self._position += len(whole) + 1
        for line in whole.split(b"\n"):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


def error_to_json(error: TimmxError) -> dict[str, Any]:
    """For `error` of a result."""
    verdict = error.verdict if isinstance(error, VerificationError) else None
    return {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "log_tail": error.log_tail,
        "log_path": str(error.log_path) if error.log_path else None,
        "verdict": None if verdict is None else verdict.to_json(),
    }


def error_from_json(data: Mapping[str, Any]) -> TimmxError:
    """The same error, as far as this core knows its kind."""
    message, hint = str(data["message"]), str(data.get("hint", ""))
    kind = getattr(errors, str(data["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, TimmxError)):
        kind = TimmxError
    error: TimmxError = kind(message, hint)
    error.exit_code = int(data["exit_code"])
    error.log_tail = str(data.get("log_tail") or "")
    error.log_path = Path(data["log_path"]) if data.get("log_path") else None
    if isinstance(error, VerificationError) and data.get("verdict"):
        error.verdict = Verdict.from_json(data["verdict"])
    return error


def _core() -> str:
    from importlib import metadata

    return metadata.version("timmx-core")
