"""What the whole run of a command shares."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import click

from timmx_core.cli.terminal import Terminal
from timmx_core.errors import OutputError

PROGRAM = "timmx"
COMPLETE_VARIABLE = "_TIMMX_COMPLETE"


@dataclass
class Settings:
    """Made once per run, and found as `ctx.obj`."""

    terminal: Terminal = field(default_factory=Terminal)
    verbose: bool = False
    json: bool = False  # `--json` stands on the command line, wherever parsing got to


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this run."""
    found = ctx.find_object(Settings)
    assert found is not None
    return found


def print_result(text: str) -> None:
    """A command's result, on stdout.

    :raises OutputError: stdout cannot take it (a full disk).
    :raises BrokenPipeError: its reader has gone.
    """
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OutputError(f"the result could not be written: {error.strerror}") from error


def discard_stdout() -> None:
    """Lead stdout nowhere, or Python tries once more at exit, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def print_json(data: Any) -> None:
    """A command's result as one JSON object, on stdout."""
    print_result(json.dumps(data, indent=2, ensure_ascii=False))


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
