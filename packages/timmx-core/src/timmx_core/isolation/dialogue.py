"""How operations on environments talk with the user, without knowing how that is done."""

from __future__ import annotations

from typing import Protocol

from timmx_core.progress import Reporter


class Dialogue(Protocol):
    """The user's side of an installation."""

    reporter: Reporter

    def show(self, text: str) -> None:
        """Lines that the user reads before being asked, or at the end."""

    def confirm(self, question: str) -> bool:
        """Whether to go on; changes are made after a yes alone."""
