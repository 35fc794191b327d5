"""Plugins: each is loaded and called alone, so that none can take the others down.

A plugin that fails to import, to register, or that was written for another version of the
contract is a row that says why; everything else goes on.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Backend
from timmx_core.errors import IsolationError, PluginError, RequestError, TimmxError
from timmx_core.plugins.discovery import Unreadable, candidates
from timmx_core.plugins.format_json import DescribedBackend
from timmx_core.plugins.isolated import IsolatedPlugin, isolated_plugins
from timmx_core.plugins.loading import Plugin, PluginRow, call_hook, describe, load_plugin

if TYPE_CHECKING:
    from timmx_core.backend import ExportRequest
    from timmx_core.results import ExportResult

DISABLE_VARIABLE = "TIMMX_DISABLE_PLUGINS"

log = logging.getLogger(__name__)


class PluginManager:
    """The plugins of one process and the formats that they bring."""

    def __init__(self) -> None:
        self._plugins: list[Plugin] = []
        self._isolated: list[IsolatedPlugin] = []
        self.index_trouble: IsolationError | None = None  # why isolated plugins are unknown

    @classmethod
    def discover(cls) -> PluginManager:
        """Load every installed plugin that is not disabled."""
        manager = cls()
        disabled = _disabled()
        for candidate in candidates():
            if isinstance(candidate, Unreadable):
                row = PluginRow(candidate.name, candidate.name, status="failed")
                remedy = f"pip install --force-reinstall {candidate.name}"
                manager._plugins.append(Plugin(replace(row, error=candidate.error, remedy=remedy)))
                continue
            row = PluginRow(
                candidate.name, candidate.distribution, candidate.version, candidate.module
            )
            if disabled & {_canonical(row.name), _canonical(row.distribution)}:
                row = replace(row, **_disabled_facts(row.name))
                manager._plugins.append(Plugin(row))
                continue
            manager._plugins.append(load_plugin(row, candidate.load))
        manager._find_isolated(disabled)
        return manager

    def _find_isolated(self, disabled: set[str]) -> None:
        try:
            found = isolated_plugins()
        except IsolationError as error:
            self.index_trouble = error
            return
        for plugin in found:
            if disabled & {_canonical(plugin.name), _canonical(plugin.row.distribution)}:
                row = replace(plugin.row, **_disabled_facts(plugin.name))
                plugin = IsolatedPlugin(plugin.entry, row)
            self._isolated.append(plugin)

    def register(
        self, plugin: object, name: str, *, distribution: str = "", version: str = ""
    ) -> PluginRow:
        """Add a module or object that implements hooks, as if it were installed.

        :return: its row; a plugin that does not work is a row too, and raises nothing.
        """
        module = getattr(plugin, "__name__", type(plugin).__name__)
        row = PluginRow(name, distribution, version, module)
        self._plugins.append(load_plugin(row, lambda: plugin))
        return next(row for row in reversed(self.rows) if row.name == name)

    @property
    def rows(self) -> list[PluginRow]:
        """One row per plugin, those with environments of their own last."""
        rows = [*self.local_rows, *(self._isolated_row(plugin) for plugin in self._isolated)]
        if self.index_trouble is not None:
            message, remedy = self.index_trouble.message, self.index_trouble.hint
            rows.append(PluginRow("(isolated)", status="failed", error=message, remedy=remedy))
        return rows

    @property
    def local_rows(self) -> list[PluginRow]:
        """The plugins that are installed in this environment."""
        owners = self._owners()
        return [_with_clashes(plugin.row, owners) for plugin in self._plugins]

    def _isolated_row(self, plugin: IsolatedPlugin) -> PluginRow:
        """With what keeps its formats from being used: one here goes first."""
        row = plugin.row
        hidden = [format for format in row.formats if format in self._owners()]
        if row.status != "isolated" or not hidden:
            return row
        owner = self._owners()[hidden[0]][0]
        return replace(
            row,
            status="shadowed",
            error=f"{hidden[0]} of {owner.label}, which is installed here, is used instead",
            remedy=f"timmx plugins remove --isolated {row.name}, or --here",
        )

    @property
    def isolated(self) -> Mapping[str, IsolatedPlugin]:
        """Formats with an environment of their own that are to be run there, and who brings each.

        .. versionadded:: 0.1
        """
        here = self._owners()
        return {
            backend.name: plugin
            for plugin in self._isolated
            for backend in plugin.backends
            if backend.name not in here
        }

    @property
    def isolated_plugins(self) -> list[IsolatedPlugin]:
        """Every plugin with an environment of its own, usable or not."""
        return list(self._isolated)

    @property
    def formats(self) -> Mapping[str, Backend]:
        """Every format that can be asked for, by name; those of other environments as described.

        .. versionadded:: 0.1
        """
        described = {b.name: b for plugin in self._isolated for b in plugin.backends}
        found = dict(self.backends) | {name: described[name] for name in self.isolated}
        return dict(sorted(found.items()))

    def format(self, name: str) -> Backend:
        """The format of that name, here or in its own environment.

        :raises RequestError: it is no name.
        :raises PluginError: no plugin brings it, or the one that does is broken.
        :raises IsolationError: its environment, or the index of all, is broken.

        .. versionadded:: 0.1
        """
        if not isinstance(name, str):
            raise RequestError(
                f"a format is given by its name, and not as {type(name).__name__}",
                "see them with: timmx plugins list",
            )
        formats = self.formats
        if name in formats:
            return formats[name]
        return self.backend(name)

    def _check_isolated(self, name: str) -> None:
        """:raises IsolationError: it is in an environment that cannot be used, or may be."""
        for plugin in self._isolated:
            if name == plugin.name or name in _described(plugin):
                plugin.check()
        if self.index_trouble is not None and self.is_hidden(name):
            raise IsolationError(self.index_trouble.message, self.index_trouble.hint)

    def is_hidden(self, name: str) -> bool:
        """Whether a format of that name may be there, in an environment that cannot be used."""
        if self.index_trouble is not None:
            return not any(row.name == name for row in self.local_rows)
        return any(name in _described(p) for p in self._isolated if not p.backends)

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The formats that work in this process, by name, in alphabetical order."""
        owners = self._owners()
        found = {
            backend.name: backend
            for plugin in self._plugins
            for backend in plugin.backends
            if len(owners[backend.name]) == 1
        }
        return dict(sorted(found.items()))

    def backend(self, format: str) -> Backend:
        """The format of that name, to be used in this process.

        :raises PluginError: no plugin brings it here, two do, or the one that does is broken.
        :raises IsolationError: the environment that has it, or may have, is broken.
        """
        backends = self.backends
        if format in backends:
            return backends[format]
        owners = self._owners().get(format, [])
        if len(owners) > 1:
            raise PluginError(_clash_text(format, owners), _clash_remedy(owners))
        self._check_isolated(format)
        row = self.row_of(format)
        if row is not None:
            trouble = "does not work" if row.status != "disabled" else "is not loaded"
            raise PluginError(f"plugin {row.name} ({row.label}) {trouble}: {row.error}", row.remedy)
        described = self.formats.get(format)
        if isinstance(described, DescribedBackend):
            described.refuse()
        near = difflib.get_close_matches(format, self.formats, n=3)
        if near:
            raise PluginError(f"no format {format!r}", missing_format_hint(near))
        raise PluginError(f"no installed plugin brings a format {format!r}", missing_format_hint())

    def row_of(self, format: str) -> PluginRow | None:
        """The plugin that brings this format; else the one of that name, whose formats are unknown.

        Where two plugins bring it, the first of them.
        """
        rows = sorted(self.rows, key=lambda row: row.status not in ("ok", "isolated"))
        for row in rows:
            if format in row.formats:
                return row
        works = ("ok", "isolated")
        return next((r for r in rows if r.name == format and r.status not in works), None)

    def model_source(self, name: str) -> Path | None:
        """The local path that some plugin has for a model name of its own scheme.

        A plugin that breaks is logged and passed over; what it says to the user is passed on.

        :raises TimmxError: a plugin's own word on why that name cannot be had.
        """
        for plugin in self._plugins:
            try:
                found = call_hook(plugin, "timmx_model_source", name=name)
                if found is not None:
                    return Path(found)
            except TimmxError:
                raise
            except Exception as error:  # noqa: BLE001 (plugins raise what they like)
                log.warning("plugin %s: %s", plugin.row.name, describe(error))
        return None

    def export_finished(self, request: ExportRequest, result: ExportResult) -> list[str]:
        """Tell every observer.

        :return: a line for each that raised.
        """
        warnings = []
        for plugin in self._plugins:
            try:
                call_hook(plugin, "timmx_export_finished", request=request, result=result)
            except Exception as error:  # noqa: BLE001 (plugins raise what they like)
                row = plugin.row
                warnings.append(f"plugin {row.name} ({row.label}) failed: {describe(error)}")
        return warnings

    def _owners(self) -> dict[str, list[PluginRow]]:
        owners: dict[str, list[PluginRow]] = {}
        for plugin in self._plugins:
            for backend in plugin.backends:
                owners.setdefault(backend.name, []).append(plugin.row)
        return owners


def missing_format_hint(near: Sequence[str] = ()) -> str:
    """What to do about a word that no plugin knows; core knows no format by name.

    The word itself is not what to install: anyone may have published something under a typing
    error.

    :param near: words that are known, and may have been meant.
    """
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}installed: timmx plugins list; more of them: see timmx plugins install --help"


def _with_clashes(row: PluginRow, owners: Mapping[str, list[PluginRow]]) -> PluginRow:
    clashing = [format for format in row.formats if len(owners.get(format, ())) > 1]
    if row.status != "ok" or not clashing:
        return row
    rivals = [owner for format in clashing for owner in owners[format]]
    text = "; ".join(_clash_text(format, owners[format]) for format in clashing)
    return replace(row, status="clash", error=text, remedy=_clash_remedy(rivals))


def _clash_text(format: str, owners: list[PluginRow]) -> str:
    names = " and ".join(f"{row.name} ({row.label})" for row in owners)
    return f"format {format!r} is brought by {len(owners)} plugins, {names}, and none is used"


def _clash_remedy(owners: list[PluginRow]) -> str:
    distributions = dict.fromkeys(row.distribution or row.name for row in owners)
    choices = " or ".join(f"pip uninstall {name}" for name in distributions)
    return f"keep one of them: {choices}"


def _described(plugin: IsolatedPlugin) -> list[str]:
    """Formats of a plugin, be they usable or not."""
    formats = plugin.entry.description.get("formats", ())
    return [str(item.get("name")) for item in formats if isinstance(item, dict)]


def _disabled_facts(name: str) -> dict[str, Any]:
    return {
        "status": "disabled",
        "error": f"disabled by {DISABLE_VARIABLE}",
        "remedy": f"remove {name} from {DISABLE_VARIABLE}",
    }


def _disabled() -> set[str]:
    words = os.environ.get(DISABLE_VARIABLE, "").replace(",", " ").split()
    return {_canonical(word) for word in words}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


class _Current:
    """The manager of this process."""

    lock = threading.Lock()
    manager: PluginManager | None = None


def get_manager() -> PluginManager:
    """The plugins of this process, discovered on first use."""
    with _Current.lock:
        if _Current.manager is None:
            _Current.manager = PluginManager.discover()
        return _Current.manager


@contextlib.contextmanager
def use_manager(manager: PluginManager) -> Iterator[PluginManager]:
    """Let `get_manager` return this one, for tests and embedders."""
    with _Current.lock:
        before, _Current.manager = _Current.manager, manager
    try:
        yield manager
    finally:
        with _Current.lock:
            _Current.manager = before


__all__ = ["PluginManager", "PluginRow", "get_manager", "missing_format_hint", "use_manager"]
