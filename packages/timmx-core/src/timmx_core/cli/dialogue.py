"""The user's side of an installation: plans on stderr, questions at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from timmx_core.cli.settings import Settings
from timmx_core.cli.stages import reporting
from timmx_core.cli.terminal import Terminal
from timmx_core.errors import RequestError
from timmx_core.progress import Reporter


class TerminalDialogue:
    """Implements `timmx_core.isolation.dialogue.Dialogue`."""

    def __init__(self, terminal: Terminal, reporter: Reporter, *, yes: bool) -> None:
        self.reporter = reporter
        self._terminal = terminal
        self._yes = yes

    def show(self, text: str) -> None:
        """See `Dialogue.show`."""
        self._terminal.line(text)

    def confirm(self, question: str) -> bool:
        """See `Dialogue.confirm`.

        :raises RequestError: there is nobody to ask.
        """
        if self._yes:
            return True
        if not sys.stdin.isatty():
            raise RequestError(
                "nothing was changed: there is no terminal to ask at", "--yes does it without"
            )
        try:
            return click.confirm(question, default=False, err=True)
        except click.Abort:
            raise KeyboardInterrupt from None


@contextmanager
def dialogue(settings: Settings, *, yes: bool) -> Iterator[TerminalDialogue]:
    """A dialogue with whoever started this run; stages are plain lines, with questions between."""
    if settings.answer is None:
        from timmx_core.cli.stages import StageReporter

        with StageReporter(settings.terminal, live=False) as reporter:
            yield TerminalDialogue(settings.terminal, reporter, yes=yes)
        return
    with reporting(settings) as answer:
        yield TerminalDialogue(settings.terminal, answer, yes=yes)
