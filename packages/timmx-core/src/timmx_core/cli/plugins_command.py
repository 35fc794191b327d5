"""`timmx plugins`."""

from __future__ import annotations

from dataclasses import asdict

import click

from timmx_core.cli.settings import json_option, print_json, print_result
from timmx_core.cli.terminal import columns
from timmx_core.plugins import PluginRow, get_manager

HEADER = ("NAME", "DISTRIBUTION", "VERSION", "FORMATS", "STATUS", "LOADED IN")


@click.group("plugins")
def plugins_group() -> None:
    """Show the installed plugins."""


@plugins_group.command("list", params=[json_option()])
def list_plugins(as_json: bool) -> None:
    """List the plugins, their formats, and what does not work.

    The time is what each plugin adds to every start of timmx.
    """
    rows = get_manager().rows
    if as_json:
        print_json({"plugins": [asdict(row) for row in rows]})
    elif not rows:
        print_result("no plugin is installed: pip install timmx-<format>")
    else:
        print_result("\n".join(_lines(rows)))


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
    time = f"{row.seconds * 1000:.0f} ms" if row.status != "disabled" else "-"
    return (row.name, row.distribution or "-", row.version or "-", formats, row.status, time)
