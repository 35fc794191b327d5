"""`timmx plugins`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timmx_core.cli.settings import (
    json_option,
    print_json,
    print_lines,
    print_path,
    settings_of,
    verbose_option,
)
from timmx_core.cli.terminal import columns
from timmx_core.plugins.manager import PluginRow, get_manager

if TYPE_CHECKING:
    from timmx_core.errors import TimmxError

HEADER = ("NAME", "DISTRIBUTION", "VERSION", "FORMATS", "STATUS", "LOADED IN")
INSTALL_HELP = """Install plugins, each where it fits.

\b
PLUGIN is
  litert                   timmx-litert, from the package index
  ./packages/timmx-litert  a source tree, a wheel or an sdist
  'timmx-litert>=0.2'      a requirement, as pip takes it

The resolver is asked first, and what would change is shown. A plugin that changes nothing that is
installed here goes here; another one gets an environment of its own, and its formats are used as
if they were here.
"""


@click.group("plugins")
def plugins_group() -> None:
    """Install plugins, and show what there is."""


@plugins_group.command("install", params=[verbose_option()], help=INSTALL_HELP)
@click.argument("plugins", metavar="PLUGIN...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option("--here", is_flag=True, help="Into this environment, whatever that changes in it.")
@click.option("--isolated", is_flag=True, help="Into an environment of its own, if it fits or not.")
@click.option("--python", metavar="VERSION|PATH", help="Python of an environment of its own.")
@click.option("--with", "further", metavar="REQUIREMENT", multiple=True,
              help="Install this beside it, too. May be given several times.")  # fmt: skip
@click.option("--index-url", metavar="URL", help="The package index to install from.")
@click.option("--find-links", metavar="DIR|URL", multiple=True,
              help="Look for distributions there, too. May be given several times.")  # fmt: skip
@click.option("--offline", is_flag=True, help="Reach no network: from caches and --find-links.")
@click.pass_context
def install_plugins(
    ctx: click.Context, /, plugins: tuple[str, ...], yes: bool, **given: Any
) -> None:
    """Install plugins."""
    from timmx_core.cli.dialogue import dialogue
    from timmx_core.isolation.install import Choices, install

    with dialogue(settings_of(ctx), yes=yes) as talk:
        install(plugins, Choices(**given), talk)


@plugins_group.command("remove", params=[verbose_option()])
@click.argument("plugins", metavar="PLUGIN...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option("--here", is_flag=True, help="The one that is installed in this environment.")
@click.option("--isolated", is_flag=True, help="The one with an environment of its own.")
@click.pass_context
def remove_plugins(
    ctx: click.Context, plugins: tuple[str, ...], yes: bool, here: bool, isolated: bool
) -> None:
    """Remove plugins, and the environments that they have to themselves."""
    from timmx_core.cli.dialogue import dialogue
    from timmx_core.isolation.upkeep import remove

    with dialogue(settings_of(ctx), yes=yes) as talk:
        remove(plugins, here=here, isolated=isolated, manager=get_manager(), dialogue=talk)


@plugins_group.command("upgrade", params=[verbose_option()])
@click.argument("plugins", metavar="[PLUGIN...]", nargs=-1)
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option("--offline", is_flag=True, help="Reach no network.")
@click.pass_context
def upgrade_plugins(ctx: click.Context, plugins: tuple[str, ...], yes: bool, offline: bool) -> None:
    """Bring plugins up to date; without a name, all that have an environment of their own.

    An environment is made anew beside the old one, which goes when the new one works.
    """
    from timmx_core.cli.dialogue import dialogue
    from timmx_core.isolation.upkeep import upgrade

    with dialogue(settings_of(ctx), yes=yes) as talk:
        results = upgrade(plugins, manager=get_manager(), dialogue=talk, offline=offline)
    _raise_first(ctx, results)


@plugins_group.command("repair", params=[verbose_option()])
@click.argument("plugins", metavar="[PLUGIN...]", nargs=-1)
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option("--offline", is_flag=True, help="Reach no network.")
@click.pass_context
def repair_plugins(ctx: click.Context, plugins: tuple[str, ...], yes: bool, offline: bool) -> None:
    """Make environments again that are broken or gone; without a name, see to all of them.

    Also puts a damaged index together again, and removes what killed installations left behind.
    """
    from timmx_core.cli.dialogue import dialogue
    from timmx_core.isolation.upkeep import repair

    with dialogue(settings_of(ctx), yes=yes) as talk:
        results = repair(plugins, dialogue=talk, offline=offline)
    _raise_first(ctx, results)


def _raise_first(ctx: click.Context, results: dict[str, TimmxError | None]) -> None:
    """All that went wrong is told; the exit code is that of the first."""
    errors = [(name, error) for name, error in results.items() if error is not None]
    for name, error in errors[1:]:
        settings_of(ctx).terminal.labelled(name, str(error), "red")
    if errors:
        raise errors[0][1]


@plugins_group.command("list", params=[json_option()])
def list_plugins(as_json: bool) -> None:
    """List the plugins, their formats, and what does not work.

    The time is what each plugin adds to every start of timmx; those with an environment of their
    own ("isolated") are not loaded, and add none.
    """
    rows = get_manager().rows
    if as_json:
        print_json({"plugins": [asdict(row) for row in rows]})
    elif not rows:
        print_lines(["no plugin is installed: timmx plugins install <format>"])
    else:
        print_lines(_lines(rows))


@plugins_group.command("new")
@click.argument("format")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.pass_context
def new_plugin(ctx: click.Context, format: str, folder: Path | None) -> None:
    """Write a plugin for a FORMAT of your own: a distribution that works as it is.

    It builds, installs, exports and passes the conformance suite; its README says what to replace.
    DIR is timmx-FORMAT where none is given.
    """
    from timmx_core.scaffold import names_of, refuse_taken, write_plugin

    names = names_of(format)
    refuse_taken(names, get_manager())
    folder = Path(names.distribution) if folder is None else folder
    files = write_plugin(names, folder)
    terminal = settings_of(ctx).terminal
    for file in files:
        terminal.line(f"  {file}")
    terminal.line(f"next: cd {folder}, pip install -e '.[test]', pytest")
    print_path(folder.absolute())


@plugins_group.command("describe", hidden=True)
def describe_command() -> None:
    """Print what a host keeps of an environment, as JSON."""
    from timmx_core.plugins.format_json import describe_environment

    print_json(describe_environment(get_manager()))


def _lines(rows: list[PluginRow]) -> list[str]:
    head, *body = columns([HEADER, *map(_cells, rows)])
    lines = [head]
    for row, line in zip(rows, body, strict=True):
        lines.append(line)
        if row.error:
            lines.append(f"    {row.error}")
        if row.remedy:
            lines.append(f"    -> {row.remedy}")
    return lines


def _cells(row: PluginRow) -> tuple[str, ...]:
    formats = ", ".join(row.formats) or "-"
    loaded = row.status != "disabled" and not row.environment and row.distribution
    time = f"{row.seconds * 1000:.0f} ms" if loaded else "-"
    return (row.name, row.distribution or "-", row.version or "-", formats, row.status, time)
