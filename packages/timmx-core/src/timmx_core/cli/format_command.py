"""`timmx FORMAT MODEL`: one command per format, made from the format's options."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from timmx_core.cli.completion import complete_models
from timmx_core.cli.parameters import GroupedCommand, given, heading_of, make_option
from timmx_core.cli.settings import (
    Settings,
    json_option,
    print_json,
    print_path,
    settings_of,
    verbose_option,
)
from timmx_core.request.options import options_of
from timmx_core.request.shared_options import GROUPS, SHARED_OPTIONS

if TYPE_CHECKING:
    from timmx_core.backend import Backend
    from timmx_core.results import ExportResult

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
OWN_MAPPING = 1 << 20  # bytes; larger arrays are mapped by themselves

# \b: these lines are not wrapped.
MODEL_HELP = """\b
MODEL is
  resnet50, resnet50.a1_in1k   a name of timm (see timmx list)
  hf-hub:org/name              a model on a hub
  local-dir:path               a folder with config.json and weights
"""


class FormatCommand(GroupedCommand):
    """Exports to one format."""

    headings = GROUPS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`; errors of the parser know where they happened."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def make_format_command(backend: Backend) -> click.Command:
    """The command of a format; refused options are understood, in order to say why."""
    refused = [option for option in SHARED_OPTIONS if option.name in backend.refuses]
    parameters: list[click.Parameter] = [
        click.Argument(["model"], metavar="MODEL", shell_complete=complete_models),
        *(make_option(o, heading_of(o, backend.name)) for o in options_of(backend)),
        *(make_option(o, heading_of(o, backend.name), hidden=True) for o in refused),
        json_option(),
        verbose_option(),
    ]

    def export(model: str, as_json: bool, **values: Any) -> None:
        settings = settings_of(click.get_current_context())
        _show(_export(backend.name, model, given(values), settings), settings, as_json)

    return FormatCommand(
        name=backend.name,
        params=parameters,
        callback=export,
        help=f"{backend.help.rstrip('.')}.\n\n{MODEL_HELP}",
        short_help=backend.help,
    )


def _export(format: str, model: str, values: dict[str, Any], settings: Settings) -> ExportResult:
    from timmx_core import api
    from timmx_core.cli.stages import reporting

    _give_back_memory()
    with reporting(settings) as reporter:
        return api.export(format, model, reporter=reporter, verbose=settings.verbose, **values)


def _give_back_memory() -> None:
    """Let arrays that were freed go back to the system.

    glibc keeps up to 32 MB each for later, in pieces that nothing else fits into: 100 MB of a
    resnet18's export.
    """
    if sys.platform == "linux":
        import ctypes

        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_MAPPING)


def _show(result: ExportResult, settings: Settings, as_json: bool) -> None:
    from timmx_core.cli.summary import export_lines

    for line in export_lines(result):
        settings.terminal.line(line)
    if as_json:
        print_json(result.to_json())
    else:
        assert result.path is not None
        print_path(result.path)
