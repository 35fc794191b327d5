"""`timmx`: formats from plugins, and the commands of core. Everything is made when it is used."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

import click

from timmx_core.cli.settings import settings_of, verbose_option
from timmx_core.errors import IsolationError, MissingDependency, PluginError, TimmxError

if TYPE_CHECKING:
    from timmx_core.plugins.manager import PluginManager

# name -> (module, attribute, one line of help); the module is imported when the command is run.
COMMANDS = {
    "run-all": ("run_all_command", "run_all_command", "Export a model to several formats at once."),
    "list": ("listing", "list_command", "List timm's models."),
    "info": ("info_command", "info_command", "Show what a model is, without loading weights."),
    "inspect": ("inspect_command", "inspect_command", "Show what an exported file says of itself."),
    "verify": ("verify_command", "verify_command", "Check an exported file again, as it is now."),
    "plugins": ("plugins_command", "plugins_group", "Install plugins, and show what there is."),
    "doctor": ("doctor_command", "doctor_command", "Find out what works here, and what does not."),
    "completion": ("completion", "completion_command", "Print the completion script of a shell."),
}
EPILOG = (
    "Weights are random unless --pretrained or --checkpoint is given. Exit codes: 0 done, "
    "2 the request makes no sense, 3 a plugin or converter is missing, 4 a plugin's own "
    "environment, 5 the model or its weights, 6 the conversion, 7 the verification, 8 the output, "
    "9 a file that cannot be read, 70 a fault of timmx itself, 130 interrupted."
)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Root(click.Group):
    """The root group; its formats come from the plugins."""

    def __init__(self) -> None:
        super().__init__(
            name="timmx",
            help="Export any timm image model to a verified, deployable file.\n\n"
            "timmx FORMAT MODEL exports; timmx FORMAT --help shows the options of a format.",
            epilog=EPILOG,
            params=[verbose_option(), _version_option()],
            subcommand_metavar="FORMAT MODEL | COMMAND ...",
            context_settings=CONTEXT,
            invoke_without_command=True,
            callback=_show_help,
        )

    @property
    def manager(self) -> PluginManager:
        """The installed plugins."""
        from timmx_core.plugins.manager import get_manager

        return get_manager()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Formats first, then the commands of core."""
        return [*self.manager.formats, *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command of core, or one made from a format's options."""
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command = getattr(import_module(f"timmx_core.cli.{module}"), attribute)
            assert isinstance(command, click.Command)
            return command
        backend = self.manager.formats.get(cmd_name)
        if backend is None:
            return None
        from timmx_core.cli.format_command import make_format_command

        return make_format_command(backend)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say what is the matter with the word.

        :raises PluginError: unknown, or of a plugin that does not work.
        :raises IsolationError: its environment does not work.
        """
        word, *rest = args
        command = self.get_command(ctx, word)
        if ctx.resilient_parsing:
            return (word if command is not None else None), command, rest
        if command is None:
            raise self._unknown(word)
        answer = settings_of(ctx).answer
        if answer is not None:
            _ = self.manager  # a plugin that hangs while it is loaded does not answer
            answer.hello()
        return word, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's sections: formats, commands, and plugins that do not work."""
        formats = self.manager.formats
        troubled = [row for row in self.manager.rows if row.troubled]
        with formatter.section("Formats"):
            if formats:
                formatter.write_dl([(b.name, b.help) for b in formats.values()])
            else:
                formatter.write_text("None is installed: timmx plugins install <format>")
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in COMMANDS.items()])
        if troubled:
            with formatter.section("Plugins that do not work (timmx plugins list)"):
                formatter.write_dl([(row.name, f"{row.status}: {row.error}") for row in troubled])

    def _unknown(self, word: str) -> TimmxError:
        from timmx_core.plugins.manager import missing_format_hint

        backends = list(self.manager.formats)
        if self.manager.row_of(word) is not None or self.manager.is_hidden(word):
            try:
                self.manager.format(word)
            except (PluginError, IsolationError) as error:
                return error
        message = f"no format or command {word!r}"
        near = difflib.get_close_matches(word.lower(), [*backends, *COMMANDS], n=3)
        if near:
            return PluginError(message, missing_format_hint(near))
        if _is_model(word):
            return PluginError(message, f"the format comes first: timmx {_first(backends)} {word}")
        return PluginError(message, missing_format_hint())


def _is_model(word: str) -> bool:
    from timmx_core.models.names import catalog

    try:
        return word.partition(".")[0] in catalog.model_names()
    except MissingDependency:
        return False


def _first(backends: list[str]) -> str:
    return backends[0] if backends else "FORMAT"


def _show_help() -> None:
    """`timmx` alone is `timmx --help`."""
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"timmx {version('timmx-core')}")
        ctx.exit()


def _version_option() -> click.Option:
    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version.",
    )
