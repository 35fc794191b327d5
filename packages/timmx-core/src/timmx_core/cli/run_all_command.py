"""`timmx run-all MODEL`: several formats from one command."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timmx_core.backend import Option
from timmx_core.cli.completion import complete_models
from timmx_core.cli.format_command import MODEL_HELP
from timmx_core.cli.parameters import GroupedCommand, given, make_option
from timmx_core.cli.settings import (
    Settings,
    json_option,
    print_json,
    print_path,
    settings_of,
    verbose_option,
)
from timmx_core.cli.terminal import columns, harmless
from timmx_core.errors import RequestError, TimmxError
from timmx_core.isolation.run_all import MEMORY, Job, exit_code, export_all
from timmx_core.plugins.manager import PluginManager, get_manager
from timmx_core.request.options import options_of
from timmx_core.request.shared_options import GROUPS, OUTPUT, PRECISION, SHARED_OPTIONS
from timmx_core.results import ExportResult

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

HELP = f"""Export a model to several formats at once, each in a process of its own.

One that fails stops none of the others. The exit code is that of the first that failed, in the
order of --formats.

{MODEL_HELP}"""
HEADER = ("FORMAT", "STATE", "TIME", "SIZE", "WORST SNR")


class RunAllCommand(GroupedCommand):
    """Offers the options that all formats share."""

    headings = ("Formats", *GROUPS)


def _formats(text: str | None, manager: PluginManager) -> list[str]:
    if text is None:
        return list(manager.formats)
    return [word for word in text.replace(",", " ").split() if word]


def _own_options(words: Sequence[str], manager: PluginManager) -> dict[str, dict[str, Any]]:
    """`onnx.opset=20` as {"onnx": {"opset": "20"}}.

    :raises RequestError: a word of another form, or an option that the format does not have.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, separator, value = word.partition("=")
        format, dot, option = name.partition(".")
        if not separator or not dot:
            raise RequestError(
                f"--set wants FORMAT.OPTION=VALUE, not {word!r}", "as in: --set onnx.opset=20"
            )
        known = {o.name: o for o in options_of(manager.format(format))}
        key = option.lstrip("-").replace("-", "_")
        if key not in known:
            raise RequestError(f"{format} has no option {option!r}", f"timmx {format} --help")
        own = found.setdefault(format, {})
        if known[key].multiple:
            own[key] = (*own.get(key, ()), value)
        else:
            own[key] = _value(known[key], value)
    return found


def _value(option: Option, text: str) -> Any:
    if option.type != "bool":
        return text
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise RequestError(f"{option.name} is true or false, not {text!r}")
    return words[text.lower()]


@click.command("run-all", cls=RunAllCommand, help=HELP)
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.pass_context
def run_all_command(
    ctx: click.Context,
    /,
    model: str,
    formats: str | None,
    output: str | None,
    jobs: str | None,
    memory: str | None,
    set_: tuple[str, ...],
    as_json: bool,
    **values: Any,
) -> None:
    """Export to several formats."""
    from timmx_core.request.options import coerce

    settings, manager = settings_of(ctx), get_manager()
    with _table(settings) as watch:
        done = export_all(
            model,
            _formats(formats, manager),
            Path(output or "."),
            given(values),
            _own_options(set_, manager),
            manager=manager,
            jobs=coerce(JOBS, jobs),
            memory=coerce(MEMORY_OPTION, memory),
            verbose=settings.verbose,
            watch=watch,
        )
    _show(done, settings, as_json)
    ctx.exit(exit_code(done))


def _show(jobs: Sequence[Job], settings: Settings, as_json: bool) -> None:
    terminal = settings.terminal
    for line in columns([HEADER, *map(_cells, jobs)]):
        terminal.line(line)
    for job in jobs:
        for note in dict.fromkeys(job.notes):
            terminal.note(f"{job.format}: {note}")
        if isinstance(job.outcome, TimmxError):
            if job.outcome.log_tail:
                terminal.lines(job.outcome.log_tail, "  | ")
            terminal.error_text(f"{job.format}: {job.outcome.message}")
            if job.outcome.hint:
                terminal.labelled("hint", job.outcome.hint, "cyan")
    if as_json:
        print_json({"formats": {job.format: _to_json(job) for job in jobs}})
        return
    for job in jobs:
        if isinstance(job.outcome, ExportResult) and job.outcome.path is not None:
            print_path(job.outcome.path)


def _to_json(job: Job) -> dict[str, Any]:
    if isinstance(job.outcome, ExportResult):
        return job.outcome.to_json()
    from timmx_core.isolation.protocol import error_to_json

    assert job.outcome is not None
    told = error_to_json(job.outcome)
    return {"error": {key: told[key] for key in ("type", "message", "hint", "exit_code")}}


def _cells(job: Job) -> tuple[str, ...]:
    from timmx_core.cli.summary import size_text

    time = f"{job.seconds:.1f} s" if job.began is not None else "-"
    if not isinstance(job.outcome, ExportResult):
        return (job.format, job.state, time, "-", "-")
    worst = job.outcome.verdict.worst
    reached = "-" if worst is None else f"{worst.snr_db:.1f} dB (floor {worst.floor_db:g} dB)"
    return (job.format, job.state, time, size_text(job.outcome.size), reached)


class _Lines:
    """Progress where there is no terminal: a line for each stage that is done."""

    def __init__(self, settings: Settings) -> None:
        self._terminal = settings.terminal
        self._told: dict[str, int] = {}

    def __call__(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            told = self._told.get(job.format, 0)
            new = list(job.done)[told:]
            for label, seconds in new:
                self._terminal.line(f"{job.format:<14}{label:<30}{seconds:7.1f} s")
            self._told[job.format] = told + len(new)


class _LiveTable:
    """One table, drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, jobs: Sequence[Job]) -> None:
        self._live.update(self._draw(jobs))

    @staticmethod
    def _draw(jobs: Sequence[Job]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for heading in HEADER[:3]:
            table.add_column(heading, no_wrap=True)
        for job in jobs:
            colour = "red" if job.state == "failed" else "cyan" if job.ended is None else "green"
            cells = tuple(map(harmless, _cells(job)[:3]))
            table.add_row(Text(cells[0]), Text(cells[1], style=colour), Text(cells[2]))
        return table


@contextmanager
def _table(settings: Settings) -> Iterator[Any]:
    """What shows the progress: a live table at a terminal, lines elsewhere."""
    terminal = settings.terminal
    if not terminal.live or settings.verbose or settings.answer is not None:
        yield _Lines(settings)
        return
    from rich.console import Console
    from rich.live import Live

    from timmx_core.process.interrupts import at_end, forget

    console = Console(file=terminal.stream, force_terminal=True, no_color=not terminal.colour)
    live = Live(
        console=console, transient=True, auto_refresh=False, redirect_stdout=False,
        redirect_stderr=False,
    )  # fmt: skip
    at_end(terminal.show_cursor)
    try:
        with live:
            shown = _LiveTable(live)

            def watch(jobs: Sequence[Job]) -> None:
                shown(jobs)
                live.refresh()

            yield watch
    finally:
        forget(terminal.show_cursor)
        sys.stderr.flush()


JOBS = Option("jobs", "int", "The most exports at once.", minimum=1, unset="one per processor")
MEMORY_OPTION = Option(
    "memory", "float", "GiB to have free for each export before it is begun.", MEMORY, minimum=0
)
_FORMATS = Option(
    "formats", "str", "Formats to export to, in this order.", metavar="NAME,NAME", unset="all"
)
_OUTPUT = Option(
    "output", "path", "Folder of the files.", metavar="DIR", short="-o", unset="this folder"
)
_SET = Option(
    "set_", "str", "An option of one format; may be given several times.", (), multiple=True,
    metavar="FORMAT.OPTION=VALUE",
)  # fmt: skip
_PRECISION = Option("precision", "str", "Numbers in the files.", unset="each format's own")


def _set_option() -> click.Option:
    option = make_option(_SET, "Formats")
    option.opts = ["--set"]
    return option


run_all_command.params += [
    make_option(_FORMATS, "Formats"),
    _set_option(),
    make_option(JOBS, "Formats"),
    make_option(MEMORY_OPTION, "Formats"),
    make_option(_OUTPUT, OUTPUT),
    make_option(_PRECISION, PRECISION),
    *(make_option(o, o.group) for o in SHARED_OPTIONS if o.name != "output"),
    json_option(),
    verbose_option(),
]
