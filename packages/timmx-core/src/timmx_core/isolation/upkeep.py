"""`plugins remove`, `upgrade` and `repair`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from timmx_core.errors import IsolationError, PluginError, RequestError, TimmxError
from timmx_core.isolation.create import (
    build,
    check_description,
    describe,
    order_of,
    pinned,
    wrapped,
)
from timmx_core.isolation.dialogue import Dialogue
from timmx_core.isolation.installer import (
    ALL,
    NeedsBuildingError,
    Order,
    installer_for_environments,
    installer_for_here,
)
from timmx_core.isolation.plan import broken_by, make_plan, versions_in
from timmx_core.isolation.requirement import core_requirement, short_name
from timmx_core.isolation.unbuilt import changes_of
from timmx_core.plugins.environments.environment import environment_of, leftovers, sweep
from timmx_core.plugins.environments.index import (
    LOCK,
    DamagedIndexError,
    Entry,
    Recipe,
    change_index,
    index_file,
    keep_entry,
    kept_entries,
    read_index,
    write_index,
)
from timmx_core.plugins.environments.locks import locked
from timmx_core.progress import Stopwatch

if TYPE_CHECKING:
    from timmx_core.plugins.manager import PluginManager


def remove(
    names: Sequence[str], *, here: bool, isolated: bool, manager: PluginManager, dialogue: Dialogue
) -> list[str]:
    """Remove plugins with their environments, or uninstall those of this one.

    :return: the names of what was removed.
    :raises PluginError: there is no such plugin.
    """
    removed = []
    for name in map(short_name, names):
        local = _local_distribution(name, manager)
        entry = read_index().get(name)
        if local and entry and not here and not isolated:
            raise RequestError(
                f"{name} is here and has an environment of its own too", "say --here or --isolated"
            )
        if entry is not None and not here:
            done = _remove_isolated(entry, dialogue)
        elif local and not isolated:
            done = _remove_here(local, dialogue)
        else:
            raise PluginError(f"there is no plugin {name}", "timmx plugins list")
        removed += [name] if done else []
    return removed


def _remove_isolated(entry: Entry, dialogue: Dialogue) -> bool:
    dialogue.show(f"{entry.label}: its environment {entry.path} would be deleted")
    if not dialogue.confirm(f"Remove {entry.name}?"):
        return False

    def without(entries: dict[str, Entry]) -> None:
        entries.pop(entry.name, None)

    with locked(entry.name, lambda: dialogue.show(f"waiting for another timmx at {entry.name}")):
        # The index first: what is killed in between leaves a folder that nothing refers to.
        change_index(without)
        gone = environment_of(entry).remove()
        sweep(entry.name)
    dialogue.show(f"removed {entry.label}")
    if not gone:
        dialogue.show(f"{entry.path} stays: not all of it can be deleted, or timmx did not make it")
    return True


def _remove_here(distribution: str, dialogue: Dialogue) -> bool:
    dialogue.show(
        f"{distribution} would be uninstalled from this environment ({sys.prefix}); what it needed "
        "stays"
    )
    if not dialogue.confirm("Change this environment?"):
        return False
    with Stopwatch(dialogue.reporter).stage("uninstall"):
        installer_for_here().uninstall(Path(sys.executable), distribution)
    dialogue.show(f"removed {distribution} from here")
    return True


def _local_distribution(name: str, manager: PluginManager) -> str:
    """The distribution of a plugin that is installed in this environment; empty: it is not."""
    for row in manager.local_rows:
        if name in (row.name, short_name(row.distribution or row.name)):
            return row.distribution
    return ""


def upgrade(
    names: Sequence[str], *, manager: PluginManager, dialogue: Dialogue, offline: bool = False
) -> dict[str, TimmxError | None]:
    """Bring plugins to what their requirement now leads to; none named: all isolated ones.

    An environment is made anew and takes the old one's place when it works.

    :return: by name, what went wrong with it, or None.
    """
    known = read_index()
    chosen = [short_name(name) for name in names] or list(known)
    for name in chosen:
        if name not in known and not _local_distribution(name, manager):
            raise PluginError(f"there is no plugin {name}", "timmx plugins list")
    results: dict[str, TimmxError | None] = {}
    for name in chosen:
        try:
            if name in known:
                _upgrade_isolated(name, dialogue, offline=offline)
            else:
                _upgrade_here(_local_distribution(name, manager), dialogue, offline=offline)
            results[name] = None
        except TimmxError as error:
            results[name] = error  # it keeps none of the others from its turn
    return results


def _upgrade_isolated(name: str, dialogue: Dialogue, *, offline: bool) -> None:
    with locked(name, lambda: dialogue.show(f"waiting for another timmx at {name}")):
        sweep(name)
        entry = read_index()[name]
        recipe = replace(entry.recipe, core=core_requirement()[0])
        if not recipe.local and _is_current(entry, recipe, dialogue, offline=offline):
            dialogue.show(f"{entry.label} is up to date")
            return
        made = build(name, entry.distribution, recipe, dialogue, offline=offline)
        if made is not None:
            dialogue.show(f"{entry.label} is now {made.entry.label}")


def _is_current(entry: Entry, recipe: Recipe, dialogue: Dialogue, *, offline: bool) -> bool:
    environment = environment_of(entry)
    if environment.trouble or entry.recipe.core != recipe.core:
        return False
    order = replace(order_of(recipe, entry.distribution, offline=offline), upgrade="all")
    order = replace(order, only_binary=(ALL,))
    try:
        with Stopwatch(dialogue.reporter).stage("resolve"):
            changes = installer_for_environments().plan(environment.python, order)
    except NeedsBuildingError:
        return False  # only building tells, which the user is asked about next
    # Source trees are always installed anew, in whatever version.
    return not make_plan(versions_in(environment.site_packages), changes).changed


def _upgrade_here(distribution: str, dialogue: Dialogue, *, offline: bool) -> None:
    installer, python = installer_for_here(), Path(sys.executable)
    order = Order((distribution,), offline=offline, upgrade="named", named=distribution)
    found = changes_of(installer, python, order, dialogue, "resolve for this environment")
    if found is None:
        return
    changes, order = found
    plan = make_plan(versions_in(), changes)
    if not plan.changes:
        dialogue.show(f"{distribution} is up to date")
        return
    lines = [f"in this environment, {sys.prefix}"]
    lines += wrapped("  changes: ", [change.text for change in plan.changes])
    lines += [f"  breaks:  {line}" for line in broken_by(plan)]
    dialogue.show("\n".join(lines))
    if dialogue.confirm("Change this environment?"):
        with Stopwatch(dialogue.reporter).stage(f"install {len(plan.changes)} packages"):
            installer.install(python, order)
        dialogue.show(f"upgraded {distribution}")


def repair(
    names: Sequence[str], *, dialogue: Dialogue, offline: bool = False
) -> dict[str, TimmxError | None]:
    """Put together a damaged index, make broken environments again, remove leftovers.

    :return: by name, what went wrong with it, or None.
    :raises IsolationError: the index is of a newer timmx.
    """
    _repair_index(dialogue)
    known = read_index()
    chosen = [short_name(name) for name in names] or list(known)
    for name in chosen:
        if name not in known:
            raise PluginError(f"{name} has no environment of its own", "timmx plugins list")
    results = {name: _try_repair(name, dialogue, offline=offline) for name in chosen}
    for path in leftovers(remove=True):
        dialogue.show(f"removed what was left of an interrupted installation: {path}")
    return results


def _try_repair(name: str, dialogue: Dialogue, *, offline: bool) -> TimmxError | None:
    try:
        with locked(name, lambda: dialogue.show(f"waiting for another timmx at {name}")):
            _repair_one(read_index()[name], dialogue, offline=offline)
    except TimmxError as error:
        return error
    return None


def _repair_one(entry: Entry, dialogue: Dialogue, *, offline: bool) -> None:
    trouble = _trouble(entry)
    if not trouble:
        dialogue.show(f"{entry.label}: nothing to repair")
        return
    dialogue.show(f"{entry.label}: {trouble}")
    recipe = replace(pinned(entry), core=core_requirement()[0])
    if recipe.python and os.sep in recipe.python and not Path(recipe.python).exists():
        dialogue.show(f"{recipe.python} is gone, so this Python is used")
        recipe = replace(recipe, python=None)
    made = build(entry.name, entry.distribution, recipe, dialogue, offline=offline)
    if made is None:
        return
    # What was asked for is remembered, and not the version that was made again.
    kept = replace(made.entry, recipe=replace(recipe, requirement=entry.recipe.requirement))
    keep_entry(kept)
    change_index(lambda entries: entries.update({kept.name: kept}))
    dialogue.show(f"{kept.label}: works again")


def _trouble(entry: Entry) -> str:
    """Why an environment has to be made again; an old description is brought up to date here."""
    environment = environment_of(entry)
    if environment.trouble:
        return environment.trouble
    try:
        with suppress(KeyError):
            description = describe(environment, entry.name)
            check_description(description, entry.name, entry.distribution)
            if description != entry.description:
                fresh = replace(entry, description=description)
                change_index(lambda entries: entries.update({entry.name: fresh}))
            return ""
    except TimmxError as error:
        return error.message
    return "it does not describe itself as it should"


def _repair_index(dialogue: Dialogue) -> None:
    """:raises IsolationError: it cannot be read, and is not damaged."""
    found: dict[str, Entry] = {entry.name: entry for entry in kept_entries()}
    path = index_file()
    try:
        read_index()
        if path.exists() or not found:
            return
        dialogue.show(f"there are environments, and no index of them ({path})")
    except DamagedIndexError as error:
        dialogue.show(error.message)
    names = ", ".join(found) or "none"
    if not dialogue.confirm(f"Put the index together from the environments ({names})?"):
        raise IsolationError("the index of isolated plugins is still damaged")
    with locked(LOCK):
        with suppress(FileNotFoundError):
            os.replace(path, path.with_suffix(".json.damaged"))
        write_index(found)
    dialogue.show(f"the index is whole again: {names}")
