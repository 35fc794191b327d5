"""Loading one plugin alone: import, contract version, hooks, formats; and calling its hooks."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pluggy

from timmx_core import hookspecs
from timmx_core.backend import Backend
from timmx_core.errors import text_of
from timmx_core.plugins.checks import InvalidBackendError, check_backend
from timmx_core.process.captured_output import stdout_to_stderr
from timmx_core.process.interrupts import ctrl_c_noted

HOOK_PREFIX = "timmx_"

Status = Literal["ok", "isolated", "shadowed", "failed", "incompatible", "clash", "disabled"]
TROUBLE = ("failed", "incompatible", "clash")


@dataclass(frozen=True)
class PluginRow:
    """What became of one plugin. `seconds` is what it adds to every start of the command line."""

    name: str
    distribution: str = ""
    version: str = ""
    module: str = ""
    formats: tuple[str, ...] = ()
    status: Status = "ok"
    error: str = ""
    remedy: str = ""
    seconds: float = 0.0
    environment: str = ""  # the folder of its own environment; empty: it is installed here

    @property
    def troubled(self) -> bool:
        """Whether it should work, and does not."""
        return self.status in TROUBLE

    @property
    def label(self) -> str:
        """`timmx-onnx 0.1.0`, or the plugin's name where no distribution is known."""
        return f"{self.distribution} {self.version}".strip() or self.name


class IncompatibleError(Exception):
    """A plugin speaks another version of the contract. The arguments: message, remedy."""


@dataclass
class Plugin:
    row: PluginRow
    hooks: pluggy.PluginManager | None = None  # a manager of its own: hooks are called alone
    backends: list[Backend] = field(default_factory=list)


def load_plugin(row: PluginRow, load: Callable[[], object]) -> Plugin:
    """Import, check and register one plugin; whatever it raises ends in its row."""
    plugin = Plugin(row)
    start = time.perf_counter()
    interrupts: list[int] = []
    try:
        # Prints of a plugin must not end up in the result on stdout.
        with stdout_to_stderr(), ctrl_c_noted() as interrupts:
            module = load()
            _check_version(module, row)
            plugin.hooks = _register(module, row.name)
            for backend in _backends(plugin):
                plugin.backends.append(check_backend(backend))
            _check_distinct(plugin.backends)
        row = replace(row, formats=tuple(backend.name for backend in plugin.backends))
    except IncompatibleError as error:
        row = replace(row, status="incompatible", error=error.args[0], remedy=error.args[1])
    except BaseException as error:
        # SystemExit and its own KeyboardInterrupt too: a plugin must not end the program by being
        # imported.
        if interrupts:
            raise
        known = tuple(backend.name for backend in plugin.backends)
        row = replace(
            row, status="failed", error=describe(error), remedy=_remedy(row, error), formats=known
        )
    if row.status != "ok":
        plugin.hooks, plugin.backends = None, []
    plugin.row = replace(row, seconds=time.perf_counter() - start)
    return plugin


def _check_version(module: object, row: PluginRow) -> None:
    spoken = getattr(module, "TIMMX_API_VERSION", None)
    if spoken == hookspecs.API_VERSION:
        return
    if not isinstance(spoken, int):
        raise IncompatibleError(
            "it does not say which version of the plugin contract it was written for",
            f"its module has to set TIMMX_API_VERSION = {hookspecs.API_VERSION}",
        )
    newer = spoken > hookspecs.API_VERSION
    upgrade = "timmx-core" if newer else row.distribution or row.name
    raise IncompatibleError(
        f"it speaks version {spoken} of the plugin contract, and timmx-core version "
        f"{hookspecs.API_VERSION}",
        f"pip install --upgrade {upgrade}",
    )


def _register(module: object, name: str) -> pluggy.PluginManager:
    """A pluggy manager that holds this plugin alone.

    :raises InvalidBackendError: a hook that does not exist, or none at all.
    """
    hooks = pluggy.PluginManager(hookspecs.PROJECT)
    hooks.add_hookspecs(hookspecs)
    try:
        hooks.register(module, name)
    except pluggy.PluginValidationError as error:
        # pluggy's first lines name the plugin and its object; the last one says what is wrong.
        raise InvalidBackendError(str(error).strip().splitlines()[-1]) from error
    known = [hook for hook in hookspecs.__all__ if hook.startswith(HOOK_PREFIX)]
    implemented = {caller.name for caller in hooks.get_hookcallers(module) or ()}
    for hook in sorted(implemented - set(known)):
        near = difflib.get_close_matches(hook, known, n=1)
        raise InvalidBackendError(
            f"it implements a hook {hook!r} that does not exist"
            + (f"; did it mean {near[0]}?" if near else "")
        )
    for hook in known:
        if hook not in implemented and callable(getattr(module, hook, None)):
            raise InvalidBackendError(f"its {hook} is not marked with @hookimpl")
    if not implemented:
        raise InvalidBackendError("it implements no hook")
    return hooks


def call_hook(plugin: Plugin, hook: str, **arguments: Any) -> Any:
    """One hook of one plugin: a list of what its implementations gave, or the first result."""
    if plugin.hooks is None:
        return None
    return getattr(plugin.hooks.hook, hook)(**arguments)


def _backends(plugin: Plugin) -> Iterable[object]:
    assert plugin.hooks is not None
    returned = call_hook(plugin, "timmx_backends")
    # pluggy leaves out what is None.
    if not returned and plugin.hooks.hook.timmx_backends.get_hookimpls():
        raise InvalidBackendError("its timmx_backends returned None")
    for backends in returned:
        yield from backends


def _check_distinct(backends: list[Backend]) -> None:
    names = [backend.name for backend in backends]
    for name in names:
        if names.count(name) > 1:
            raise InvalidBackendError(f"it brings two formats called {name!r}")


def describe(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, InvalidBackendError):
        return str(error)
    text = " ".join(text_of(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remedy(row: PluginRow, error: BaseException) -> str:
    name = row.distribution or row.name
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install --upgrade --force-reinstall {name} (it lacks {error.name})"
    return f"pip install --upgrade {name}, or pip uninstall {name}"
