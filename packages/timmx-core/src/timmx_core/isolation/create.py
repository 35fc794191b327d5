"""Making one environment: empty, resolved, shown, filled, asked what it brings; or nothing left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from timmx_core.errors import IsolationError, PluginError
from timmx_core.isolation.dialogue import Dialogue
from timmx_core.isolation.installer import Installer, Order, installer_for_environments
from timmx_core.isolation.plan import Change, Plan, make_plan
from timmx_core.isolation.process import check_protocol, isolated_command, run_child
from timmx_core.isolation.protocol import error_from_json
from timmx_core.isolation.unbuilt import built_names, changes_of
from timmx_core.plugins.checks import InvalidBackendError
from timmx_core.plugins.environments.environment import Environment, new_environment
from timmx_core.plugins.environments.index import (
    Entry,
    Recipe,
    change_index,
    keep_entry,
    read_index,
)
from timmx_core.plugins.format_json import read_formats
from timmx_core.process.interrupts import at_end, forget, held_back
from timmx_core.progress import Stopwatch

DESCRIBE_SECONDS = 300.0  # with bytecode still to be written, on a slow disk
LINE = 96


@dataclass(frozen=True)
class Made:
    """What became of one plugin."""

    entry: Entry
    replaced: Entry | None


def order_of(recipe: Recipe, distribution: str, *, offline: bool) -> Order:
    """What an environment of that recipe is to hold."""
    return Order(
        arguments=(*recipe.core, *recipe.requirement, *recipe.further),
        index_url=recipe.index_url,
        find_links=recipe.find_links,
        offline=offline,
        fresh=(distribution,) if recipe.local else (),
        named=distribution,
    )


def build(
    name: str, distribution: str, recipe: Recipe, dialogue: Dialogue, *, offline: bool
) -> Made | None:
    """Make an environment and put it into the index; the one that was there before goes last.

    The caller holds the plugin's lock.

    :return: None where the user did not want it after all.
    :raises IsolationError: it could not be made; everything is as it was.
    :raises PluginError: what was installed brings no working plugin.
    """
    environment = new_environment(name)
    at_end(environment.remove)
    published = False
    try:
        order = order_of(recipe, distribution, offline=offline)
        entry = _fill(environment, name, recipe, order, dialogue)
        if entry is None:
            environment.remove()
            return None
        old = read_index().get(name)
        with held_back():
            change_index(lambda entries: entries.update({name: entry}))
            published = True
            forget(environment.remove)
    except BaseException as error:
        if not published:
            environment.remove()
        if isinstance(error, OSError):
            raise _disk_error(error, environment) from error
        raise
    finally:
        forget(environment.remove)
    if old is not None and old.folder != entry.folder:
        Environment(old.path).remove()
    return Made(entry, old)


def _fill(
    environment: Environment, name: str, recipe: Recipe, order: Order, dialogue: Dialogue
) -> Entry | None:
    installer, distribution = installer_for_environments(), order.named
    watch = Stopwatch(dialogue.reporter)
    environment.begin()
    with watch.stage("make an environment"):
        installer.create(environment.folder, recipe.python, offline=order.offline)
    found = changes_of(installer, environment.python, order, dialogue, "resolve")
    if found is None:
        return None
    changes, order = found
    plan = make_plan({}, changes)
    change = plan.of(distribution)
    if change is None or change.after is None:
        raise IsolationError(f"the installer would not install {distribution}")
    origin = origin_of(change, recipe)
    dialogue.show(_plan_text(plan, change, origin, environment, installer, recipe))
    if not dialogue.confirm(f"Make an environment for {distribution}?"):
        return None
    with watch.stage(f"install {len(plan.changes)} packages"):
        installer.install(environment.python, order)
    with watch.stage("ask what it brings"):
        description = describe(environment, name)
    plugin = check_description(description, name, distribution)
    entry = Entry(
        name, distribution, plugin["version"], origin, environment.folder.name, recipe, description
    )
    keep_entry(entry)
    return entry


def describe(environment: Environment, name: str) -> dict[str, Any]:
    """What an environment says of itself.

    :raises IsolationError: it does not start, or does not answer.
    """
    whose = f"the environment of {name}"
    ending = run_child(
        isolated_command(environment.python), ["plugins", "describe"], timeout=DESCRIBE_SECONDS
    )
    content = ending.content
    if content is None:
        error = IsolationError(f"{whose} does not work: {ending.cause}")
        error.log_tail = ending.said
        raise error
    check_protocol(content["protocol"], whose, name)
    if "error" in content:
        raise error_from_json(content["error"])
    return dict(content["result"])


def check_description(description: dict[str, Any], name: str, distribution: str) -> dict[str, Any]:
    """The plugin of that distribution, in an environment that describes itself so.

    :raises PluginError: it brings none, or one that does not work, or a format that another has.
    """
    own = [
        plugin
        for plugin in description["plugins"]
        if canonicalize_name(plugin["distribution"]) == canonicalize_name(distribution)
    ]
    if not own:
        near = "" if distribution.startswith("timmx-") else f"did you mean timmx-{distribution}?"
        raise PluginError(f"{distribution} brings no plugin of timmx", near)
    plugin: dict[str, Any] = own[0]
    if plugin["status"] != "ok":
        raise PluginError(f"plugin {plugin['name']} ({distribution}) fails: {plugin['error']}")
    try:
        formats = {backend.name for backend in read_formats(description, distribution)}
    except InvalidBackendError as error:
        raise PluginError(f"plugin {name} ({distribution}): {error}") from None
    for other in read_index().values():
        taken = formats & set(formats_of(other))
        if other.name != name and taken:
            raise PluginError(
                f"{distribution} brings the format {min(taken)!r}, which {other.label} brings too",
                f"keep one of them: timmx plugins remove {other.name}",
            )
    return plugin


def formats_of(entry: Entry) -> list[str]:
    """The names of the formats that an entry's plugin brings; none where it cannot be read."""
    try:
        return [backend.name for backend in read_formats(entry.description, entry.distribution)]
    except InvalidBackendError:
        return []


def origin_of(change: Change, recipe: Recipe) -> str:
    """Where a distribution comes from, for people."""
    origin = change.source or (recipe.requirement[-1] if recipe.local else recipe.index_url)
    # A password in an address is nobody's business.
    return re.sub(r"//[^/@]*@", "//", origin or "the package index")


def _plan_text(
    plan: Plan,
    change: Change,
    origin: str,
    environment: Environment,
    installer: Installer,
    recipe: Recipe,
) -> str:
    core = plan.of("timmx-core")
    place = f"{environment.folder} (Python: {recipe.python or 'this one'}; by {installer.name})"
    lines = [
        f"{change.text} from {origin}",
        f"  into an environment of its own, {place}",
        f"  with timmx-core {core.after if core else ''} from {recipe.core[-1]}",
        *wrapped("  packages: ", [c.text for c in plan.changes]),
        *built_lines(plan),
    ]
    return "\n".join(lines)


def built_lines(plan: Plan) -> list[str]:
    """That sources are built, where they are; none where everything is a wheel."""
    return [f"  builds:   {name}, which runs code of it" for name in built_names(plan.changes)]


def wrapped(first: str, words: Iterable[str]) -> list[str]:
    """Words with commas, in lines of bearable length."""
    from textwrap import wrap

    return wrap(
        ", ".join(words),
        LINE,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _disk_error(error: OSError, environment: Environment) -> IsolationError:
    return IsolationError(
        f"the environment cannot be made: {error.strerror or error} ({environment.folder})",
        "make room or see to permissions, or set TIMMX_HOME to another folder",
    )


def pinned(entry: Entry) -> Recipe:
    """The recipe for the same version again."""
    try:
        requirement = Requirement(entry.recipe.requirement[-1])
    except InvalidRequirement:
        return entry.recipe  # a path
    if requirement.url:
        return entry.recipe
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    again = f"{requirement.name}{extras}=={entry.version}"
    return replace(entry.recipe, requirement=(again,))
