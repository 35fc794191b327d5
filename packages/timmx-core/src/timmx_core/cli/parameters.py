"""click's parameters from a format's options, and help in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from timmx_core.backend import FORMAT_GROUP, Option
from timmx_core.request.options import flag

METAVARS = {
    "bool": "",
    "int": "INT",
    "float": "NUMBER",
    "str": "TEXT",
    "path": "PATH",
    "ints": "INT,INT",
    "floats": "NUMBER,NUMBER",
}


class GroupedOption(click.Option):
    """An option that knows its heading in the help."""

    def __init__(self, *args: Any, heading: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose help lists options below the headings of their groups."""

    headings: Sequence[str] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command.format_options`."""
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in self.headings}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            if isinstance(parameter, GroupedOption):
                groups.setdefault(parameter.heading, []).append(record)
            else:
                others.append(record)
        for heading, records in [*groups.items(), ("Other options", others)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def make_option(option: Option, heading: str, *, hidden: bool = False) -> GroupedOption:
    """The flag of an option. Not given, it has the value None: defaults are core's to fill in."""
    name = flag(option.name)
    attributes: dict[str, Any] = {
        "help": f"{option.help}  [default: {shown_default(option)}]",
        "heading": heading,
        "default": None,
        "hidden": hidden,
    }
    if option.type == "bool":
        both = f"{name}/--no-{name[2:]}" if option.default is True else name
        declarations = [option.short, both] if option.short else [both]
        return GroupedOption([*declarations, option.name], is_flag=True, **attributes)
    declarations = [option.short, name] if option.short else [name]
    return GroupedOption(
        [*declarations, option.name],
        # Text as it stands there: core validates it, as it does for the Python API.
        type=click.UNPROCESSED,
        shell_complete=_completer(option),
        nargs=option.arity or 1,
        multiple=option.multiple,
        metavar=_metavar(option),
        **attributes,
    )


def _completer(
    option: Option,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Offers the choices, or the names of files."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if option.type == "path":
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(word) for word in option.choices if word.startswith(incomplete)]

    return complete


def shown_default(option: Option) -> str:
    """The default as the help shows it."""
    value = option.default
    if value is None:
        return "off" if option.type == "bool" else option.unset
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        separator = " " if option.arity else ","
        return separator.join(str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(option: Option) -> str:
    if option.metavar:
        return option.metavar
    if option.choices:
        return "|".join(option.choices)
    return METAVARS[option.type]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the user did give, of everything that click passes."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def heading_of(option: Option, format: str) -> str:
    """The heading in the help of a format's command."""
    return f"Options of {format}" if option.group == FORMAT_GROUP else option.group
