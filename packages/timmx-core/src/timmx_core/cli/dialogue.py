"""The user's side of an installation: plans on stderr, questions at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from timmx_core.cli.settings import Settings
from timmx_core.cli.stages import reporting
from timmx_core.cli.terminal import Terminal, harmless
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
        self._terminal.lines(text)

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
            return click.confirm(harmless(question), default=False, err=True)
        except click.Abort:
            raise KeyboardInterrupt from None


class _Stages:
    """A live line for each stage, and none in between, where there are plans and questions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack: list[ExitStack] = []
        self._reporter: Reporter | None = None

    def started(self, label: str) -> None:
        """See `Reporter.started`."""
        stack = ExitStack()
        if self._reporter is None:
            self._reporter = stack.enter_context(reporting(self._settings))
        self._stack.append(stack)
        self._reporter.started(label)

    def finished(self, label: str, seconds: float) -> None:
        """See `Reporter.finished`."""
        if self._reporter is not None:
            self._reporter.finished(label, seconds)
        self._pop()

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self._settings.terminal.note(text)

    def close(self) -> None:
        """End the lines of stages that were not finished."""
        while self._stack:
            self._pop()

    def _pop(self) -> None:
        self._stack.pop().close()
        if not self._stack:
            self._reporter = None


@contextmanager
def dialogue(settings: Settings, *, yes: bool) -> Iterator[TerminalDialogue]:
    """A dialogue with whoever started this run."""
    stages = _Stages(settings)
    try:
        yield TerminalDialogue(settings.terminal, stages, yes=yes)
    finally:
        stages.close()
