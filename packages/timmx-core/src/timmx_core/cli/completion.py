"""`timmx completion SHELL`, and what completion offers for MODEL."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from timmx_core.cli.settings import COMPLETE_VARIABLE, PROGRAM, print_result
from timmx_core.errors import MissingDependency

SHELLS = ("bash", "zsh", "fish")

HELP = """Print the completion script of a shell.

\b
bash:  echo 'eval "$(timmx completion bash)"' >> ~/.bashrc
zsh:   echo 'eval "$(timmx completion zsh)"' >> ~/.zshrc
fish:  timmx completion fish > ~/.config/fish/completions/timmx.fish
"""


@click.command("completion", help=HELP)
@click.argument("shell", type=click.Choice(SHELLS), metavar="|".join(SHELLS))
def completion_command(shell: str) -> None:
    """Print the script."""
    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(click.Group(PROGRAM), {}, PROGRAM, COMPLETE_VARIABLE)
    # The class for bash would start one to look at its version.
    print_result(ShellComplete.source(complete))


def complete_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of timm; with a dot in the word, the tags of an architecture."""
    from timmx_core.models.names import catalog

    try:
        names = catalog.pretrained_names() if "." in incomplete else catalog.model_names()
    except MissingDependency:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
