"""What the whole run of a command shares."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timmx_core.cli.terminal import UNSAFE, Terminal, harmless, harmless_text
from timmx_core.errors import OutputError

if TYPE_CHECKING:
    from timmx_core.isolation.protocol import Answer

PROGRAM = "timmx"
COMPLETE_VARIABLE = "_TIMMX_COMPLETE"


RESULT_OPTION = "--result-file"
NO_JSON = re.compile(rf"{UNSAFE.pattern}|[\ud800-\udfff]")


@dataclass
class Settings:
    """Made once per run, and found as `ctx.obj`."""

    terminal: Terminal = field(default_factory=Terminal)
    verbose: bool = False
    json: bool = False  # `--json` stands on the command line, wherever parsing got to
    answer: Answer | None = None  # where a host waits for the result (`--result-file`)


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this run."""
    found = ctx.find_object(Settings)
    assert found is not None
    return found


def print_result(text: str) -> None:
    """A text that is the result, on stdout; control characters are spelt out.

    :param text: source or JSON, whose lines are its own; see `print_lines` for any other.
    :raises OutputError: stdout cannot take it (a full disk).
    :raises BrokenPipeError: its reader has gone.
    """
    _print(harmless_text(text))


def print_lines(lines: Iterable[str]) -> None:
    """A command's result, on stdout: each of these stays one line, whatever is in it.

    :raises OutputError: stdout cannot take it (a full disk).
    :raises BrokenPipeError: its reader has gone.
    """
    _print("\n".join(map(harmless, lines)))


def print_path(path: Path) -> None:
    """A path as a result: byte for byte where a program reads it.

    :raises OutputError: stdout cannot take it (a full disk).
    """
    _print(harmless(str(path)) if sys.stdout.isatty() else str(path))


def _print(text: str) -> None:
    try:
        try:
            click.echo(text)
        except UnicodeEncodeError:  # bytes in a file's name that are no text, or an ASCII terminal
            click.echo(os.fsencode(text) if _is_path(text) else _ascii(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise unwritable(error) from error


def unwritable(error: OSError) -> OutputError:
    """What it means that stdout takes nothing."""
    reason = error.strerror or error
    return OutputError(f"the result could not be written: {reason}", "make room where stdout goes")


class _Host:
    """Whom this run answers; it is known before there is a command that could be told."""

    answer: ContextVar[Answer | None] = ContextVar("answer", default=None)


@contextmanager
def answering(answer: Answer | None) -> Iterator[None]:
    """Lead what `print_json` prints to a host."""
    token = _Host.answer.set(answer)
    try:
        yield
    finally:
        _Host.answer.reset(token)


def _is_path(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def discard_stdout() -> None:
    """Lead stdout nowhere, or Python tries once more at exit, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def print_json(data: Any) -> None:
    """A command's result as one JSON object: on stdout, or where a host waits for it.

    :raises OutputError: it cannot be written there.
    """
    answer = _Host.answer.get()
    if answer is not None:
        try:
            answer.result({"result": data})
        except OSError as error:
            raise unwritable(error) from error
        return
    text = json.dumps(data, indent=2, ensure_ascii=False)
    # What a terminal might obey stands in strings alone, and has another spelling there; so have
    # bytes of a path that are no text.
    text = NO_JSON.sub(lambda m: f"\\u{ord(m[0]):04x}" if m[0] != "\r" else "\\r", text)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # stdout takes ASCII, or little more
        text = json.dumps(data, indent=2)
    print_result(text)


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        settings_of(ctx).verbose = True


def verbose_option() -> click.Option:
    """`-v`, which may stand before or after the command."""
    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Show converters' output, and tracebacks of errors.",
    )


def json_option() -> click.Option:
    """`--json`."""
    return click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object.")
