"""`timmx verify FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from timmx_core.backend import Option
from timmx_core.cli.completion import complete_models
from timmx_core.cli.parameters import GroupedCommand, given, make_option
from timmx_core.cli.settings import (
    json_option,
    print_json,
    print_lines,
    settings_of,
    verbose_option,
)
from timmx_core.plugins.manager import get_manager
from timmx_core.request.options import shared_option

if TYPE_CHECKING:
    from timmx_core.results import Verdict

SHARED = ("probe_data", "checkpoint", "floor", "verify_timeout", "require_verified")
HEADING = "Verification"


class VerifyCommand(GroupedCommand):
    """Offers the options of phase "run" of every format that works here."""

    headings = (HEADING,)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Core's parameters, then the formats'."""
        return [*super().get_params(ctx)[:-1], *_run_parameters(), *super().get_params(ctx)[-1:]]


def _run_parameters() -> list[click.Parameter]:
    """Formats that call an option alike share it; the file's own format reads it."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for backend in get_manager().formats.values():
        for option in backend.options:
            if option.phase == "run":
                found.setdefault(option.name, (option, []))[1].append(backend.name)
    return [
        make_option(option, f"Runtime of {', '.join(formats)}")
        for option, formats in found.values()
    ]


@click.command("verify", cls=VerifyCommand)
@click.argument("file", metavar="FILE", type=click.Path())
@click.pass_context
def verify_command(
    ctx: click.Context,
    /,
    file: str,
    as_json: bool,
    model: str | None,
    built_from: str | None,
    **values: Any,
) -> None:
    """Check an exported file as it is now, against what it was exported from.

    Needs neither torch nor the weights, only the runtime of the format. Exit code 7: the file is
    wrong, or nothing could be concluded; with --require-verified also where it could not be run.
    """
    from timmx_core import api
    from timmx_core.cli.stages import reporting
    from timmx_core.request.options import coerce

    settings = settings_of(ctx)
    chosen = given(values)
    shared = {name: coerce(shared_option(name), chosen.pop(name, None)) for name in SHARED}
    with reporting(settings) as reporter:
        verdict = api.verify(
            file,
            probe_data=shared["probe_data"],
            model=model,
            built_from=built_from,
            checkpoint=shared["checkpoint"],
            floor=shared["floor"],
            timeout=shared["verify_timeout"],
            run_options=chosen,
            reporter=reporter,
            verbose=settings.verbose,
        )
    _show(ctx, verdict, as_json)
    ctx.exit(api.exit_code(verdict, require_verified=shared["require_verified"]))


def _show(ctx: click.Context, verdict: Verdict, as_json: bool) -> None:
    from timmx_core.cli.summary import verdict_lines

    if as_json:
        print_json({"verdict": verdict.to_json()})
        return
    first, *figures = verdict_lines(verdict)
    for line in figures:
        settings_of(ctx).terminal.line(line)
    print_lines([first.removeprefix("verdict").strip()])


verify_command.params += [
    *(make_option(shared_option(name), HEADING) for name in SHARED),
    click.Option(
        ["--model"],
        metavar="MODEL",
        help="The model that the file was made from, for --probe-data.",
        shell_complete=complete_models,
    ),
    click.Option(
        ["--built-from"],
        metavar="FILE",
        type=click.Path(),
        help="The file of timmx that another program made this one from; what it says of itself "
        "holds for this one.",
    ),
    json_option(),
    verbose_option(),
]
