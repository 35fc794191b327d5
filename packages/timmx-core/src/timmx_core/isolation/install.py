"""`plugins install`: here where the plugin fits in, else in an environment of its own."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from timmx_core.errors import IsolationError, PluginError, RequestError
from timmx_core.isolation.create import build, built_lines, formats_of, origin_of, wrapped
from timmx_core.isolation.dialogue import Dialogue
from timmx_core.isolation.installer import Installer, Order, installer_for_here
from timmx_core.isolation.plan import Plan, broken_by, installed_version, make_plan, versions_in
from timmx_core.isolation.process import own_command, run_child
from timmx_core.isolation.requirement import Wanted, core_requirement, read_wanted
from timmx_core.isolation.unbuilt import changes_of
from timmx_core.plugins.environments.environment import environment_of, sweep
from timmx_core.plugins.environments.index import Entry, Recipe, read_index
from timmx_core.plugins.environments.locks import locked
from timmx_core.progress import Stopwatch


@dataclass(frozen=True)
class Choices:
    """What the user said about where from and where to."""

    here: bool = False
    isolated: bool = False
    python: str | None = None
    index_url: str | None = None
    find_links: tuple[str, ...] = ()
    offline: bool = False
    further: tuple[str, ...] = ()  # requirements that are wanted beside the plugin


@dataclass(frozen=True)
class Installed:
    """What became of one plugin; `entry` where it has an environment of its own."""

    name: str
    distribution: str
    version: str
    entry: Entry | None = None
    changed: bool = True


def install(texts: Sequence[str], choices: Choices, dialogue: Dialogue) -> list[Installed]:
    """Install plugins, one after another; what was done stays done where a later one fails.

    :raises RequestError: the words make no sense.
    :raises IsolationError, PluginError: it could not be done; that plugin is as it was.
    """
    if choices.here and choices.isolated:
        raise RequestError("--here and --isolated exclude each other")
    if choices.here and choices.python:
        raise RequestError("--python is for an environment of its own", "leave --here out")
    wanted = [read_wanted(text) for text in texts]
    names = [each.name for each in wanted]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"{name} is asked for twice")
    done = []
    for each in wanted:
        result = install_one(each, choices, dialogue)
        if result is not None:
            done.append(result)
    return done


def install_one(wanted: Wanted, choices: Choices, dialogue: Dialogue) -> Installed | None:
    """One plugin, with nobody else at it.

    :return: None where the user did not want it after all.
    """

    def waiting() -> None:
        dialogue.show(f"waiting for another timmx that is at work on {wanted.name}")

    with locked(wanted.name, waiting):
        known = read_index()
        sweep(wanted.name)
        if not choices.isolated and (choices.here or not choices.python):
            answer = _look_here(wanted, choices, dialogue)
            if answer is None:
                return None
            if answer.here:
                return _install_here(wanted, answer, dialogue)
            dialogue.show(answer.reason)
        recipe = recipe_for(wanted, choices)
        old = known.get(wanted.name)
        if old is not None and _is_that(old, recipe):
            dialogue.show(f"{old.label} is installed already, in {old.path}")
            return Installed(old.name, old.distribution, old.version, old, changed=False)
        made = build(wanted.name, wanted.distribution, recipe, dialogue, offline=choices.offline)
        if made is None:
            return None
        entry = made.entry
        dialogue.show(
            f"installed {entry.label} in an environment of its own: {', '.join(formats_of(entry))}"
        )
        return Installed(entry.name, entry.distribution, entry.version, entry)


def recipe_for(wanted: Wanted, choices: Choices) -> Recipe:
    """How to make an environment for it."""
    core, _ = core_requirement()
    return Recipe(
        requirement=wanted.arguments,
        core=core,
        further=tuple(_absolute(text) for text in choices.further),
        python=choices.python,
        index_url=choices.index_url,
        find_links=tuple(_absolute(place) for place in choices.find_links),
        local=wanted.local,
    )


def _absolute(text: str) -> str:
    """A path that is one from everywhere."""
    return os.path.abspath(text) if Path(text).exists() else text


def _is_that(old: Entry, recipe: Recipe) -> bool:
    """Whether what is there is what is asked for, and works. A source tree may have changed."""
    same = (old.recipe.requirement, old.recipe.further, old.recipe.python) == (
        recipe.requirement,
        recipe.further,
        recipe.python,
    )
    return same and not recipe.local and not environment_of(old).trouble


@dataclass(frozen=True)
class _Answer:
    """Whether a plugin goes into this environment, and what that would change."""

    here: bool
    reason: str = ""  # why not
    plan: Plan | None = None
    installer: Installer | None = None
    order: Order | None = None


def _look_here(wanted: Wanted, choices: Choices, dialogue: Dialogue) -> _Answer | None:
    """:return: None where the user wants nothing to be built."""
    trouble = _closed()
    if trouble:
        if choices.here:
            raise IsolationError(trouble, "leave --here out, and it gets an environment of its own")
        return _Answer(False, trouble)
    order = Order(
        arguments=(*wanted.arguments, *choices.further),
        index_url=choices.index_url,
        find_links=choices.find_links,
        offline=choices.offline,
        named=wanted.distribution,
        fresh=(wanted.distribution,) if wanted.local else (),
    )
    try:
        installer = installer_for_here()
        found = changes_of(
            installer, Path(sys.executable), order, dialogue, "resolve for this environment"
        )
    except IsolationError as error:
        if choices.here:
            raise
        return _Answer(False, f"it does not go into this environment: {error.message}")
    if found is None:
        return None
    changes, order = found
    plan = make_plan(versions_in(), changes)
    broken = broken_by(plan)
    # Another version of the plugin itself is what is asked for.
    others = [c for c in plan.replaced if canonicalize_name(c.name) != wanted.distribution]
    if (others or broken) and not choices.here:
        lines = [f"installing {wanted.distribution} into this environment ({sys.prefix}) would"]
        lines += wrapped("  replace: ", [change.text for change in plan.replaced])
        lines += [f"  break:   {line}" for line in broken]
        return _Answer(False, "\n".join(lines) + "\nso it gets an environment of its own")
    return _Answer(True, "", plan, installer, order)


def _closed() -> str:
    """Why nothing can be installed into this environment; empty where something can."""
    if sys.prefix == sys.base_prefix:
        marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
        if marker.exists():
            return f"this Python ({sys.prefix}) belongs to the system, which manages its packages"
    folder = sysconfig.get_path("purelib")
    if not os.access(folder, os.W_OK):
        return f"this environment cannot be written to ({folder})"
    return ""


def _install_here(wanted: Wanted, answer: _Answer, dialogue: Dialogue) -> Installed | None:
    assert answer.plan is not None
    assert answer.installer is not None
    assert answer.order is not None
    plan = answer.plan
    if not plan.changes:
        version = installed_version(wanted.distribution) or ""
        dialogue.show(f"{wanted.distribution} {version} is installed here already")
        return Installed(wanted.name, wanted.distribution, version, changed=False)
    dialogue.show("\n".join(_here_lines(wanted, plan)))
    if not dialogue.confirm("Change this environment?"):
        return None
    watch = Stopwatch(dialogue.reporter)
    with watch.stage(f"install {len(plan.changes)} packages"):
        answer.installer.install(Path(sys.executable), answer.order)
    row = _row_here(wanted)
    dialogue.show(f"installed {wanted.distribution} {row['version']} here")
    return Installed(wanted.name, wanted.distribution, row["version"])


def _here_lines(wanted: Wanted, plan: Plan) -> list[str]:
    change = plan.of(wanted.distribution)
    recipe = Recipe(wanted.arguments, ())
    lines = []
    if change is not None:
        lines.append(f"{change.text} from {origin_of(change, recipe)}")
    lines.append(f"  into this environment, {sys.prefix}")
    if plan.added:
        lines += wrapped("  adds:     ", [c.text for c in plan.added])
    if plan.replaced:
        lines += wrapped("  replaces: ", [c.text for c in plan.replaced])
    lines += [f"  breaks:   {line}" for line in broken_by(plan)]
    return lines + built_lines(plan)


def _row_here(wanted: Wanted) -> dict[str, str]:
    """What a fresh process of this environment says of the plugin.

    :raises PluginError: it does not work.
    """
    ending = run_child(
        own_command(),
        ["plugins", "describe"],
        variables=dict(os.environ),
        timeout=300,
    )
    plugins = (ending.content or {}).get("result", {}).get("plugins", [])
    for plugin in plugins:
        if canonicalize_name(plugin["distribution"]) == wanted.distribution:
            if plugin["status"] in ("ok", "disabled"):
                return dict(plugin)
            raise PluginError(
                f"{wanted.distribution} was installed, and does not work: {plugin['error']}",
                f"take it out again: timmx plugins remove {wanted.name}",
            )
    raise PluginError(
        f"{wanted.distribution} was installed, and brings no plugin of timmx",
        f"take it out again: pip uninstall {wanted.distribution}",
    )
