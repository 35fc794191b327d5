"""What an order would install, found out without running anything of its packages.

A distribution that exists as source only says what it needs when its build backend runs, and that
is the author's code. So wheels alone are looked at, and the user is asked before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from timmx_core.errors import IsolationError
from timmx_core.isolation.dialogue import Dialogue
from timmx_core.isolation.installer import ALL, Installer, NeedsBuildingError, Order
from timmx_core.isolation.plan import Change
from timmx_core.isolation.requirement import CORE, core_requirement
from timmx_core.progress import Stopwatch

QUESTION = "Build it, to find out what would be installed?"


def changes_of(
    installer: Installer, python: Path, order: Order, dialogue: Dialogue, stage: str
) -> tuple[list[Change], Order] | None:
    """What would change, and the order that does just that.

    :param stage: what the user sees while the resolver is at work.
    :return: None where the user wants nothing to be built.
    :raises IsolationError: the requirements cannot be met.
    """
    watch = Stopwatch(dialogue.reporter)
    try:
        with watch.stage(stage):
            changes = installer.plan(python, replace(order, only_binary=(ALL,)))
    except NeedsBuildingError as error:
        dialogue.show("\n".join(filter(None, (error.log_tail, error.message))))
        if not dialogue.confirm(QUESTION):
            return None
        with watch.stage(stage):
            return installer.plan(python, order), order
    # Whatever else appears on an index in the meantime, what came as a wheel is not built now.
    wheels = sorted(change.name for change in changes if change.after and not change.built)
    return changes, replace(order, only_binary=tuple(wheels))


def built_names(changes: Sequence[Change]) -> list[str]:
    """What of a plan is built from source; core, which runs already, is left out."""
    return [f"{c.name} ({c.source})" for c in changes if c.built and c.name != CORE]


def sources_in(arguments: Sequence[str]) -> Iterator[str]:
    """Trees, sdists and addresses of sources among what is to be installed, core's own left out."""
    known: tuple[str, ...] = ()
    with suppress(IsolationError):
        known = core_requirement()[0]
    if arguments[: len(known)] == known:
        arguments = arguments[len(known) :]
    for argument in arguments:
        place = argument
        if not Path(argument).exists():
            with suppress(InvalidRequirement):
                place = Requirement(argument).url or ""
        elif not Path(argument).is_absolute():
            place = ""  # a name, which an index knows: paths are absolute here
        if place and not place.startswith("-") and not place.partition("#")[0].endswith(".whl"):
            yield place
