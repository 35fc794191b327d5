"""The isolated plugins as the host sees them: from the index alone, nothing is started."""

from __future__ import annotations

import os
from dataclasses import dataclass

from timmx_core.errors import IsolationError
from timmx_core.plugins.checks import InvalidBackendError
from timmx_core.plugins.environments.environment import Environment, environment_of
from timmx_core.plugins.environments.index import Entry, read_index
from timmx_core.plugins.format_json import PROTOCOL, DescribedBackend, read_formats
from timmx_core.plugins.loading import PluginRow, Status

ISOLATED = "TIMMX_ISOLATED"  # set in an environment, which has none below it


@dataclass(frozen=True)
class IsolatedPlugin:
    """One environment, and the formats that it brings where it can be used."""

    entry: Entry
    row: PluginRow
    backends: tuple[DescribedBackend, ...] = ()

    @property
    def name(self) -> str:
        """The plugin's short name."""
        return self.entry.name

    @property
    def environment(self) -> Environment:
        """Where it lives."""
        return environment_of(self.entry)

    def check(self) -> None:
        """Whether it can be used.

        :raises IsolationError: it cannot; says why, and what to do.
        """
        if self.row.troubled:
            raise IsolationError(
                f"plugin {self.name} ({self.entry.label}) does not work: {self.row.error}",
                self.row.remedy,
            )


def isolated_plugins() -> list[IsolatedPlugin]:
    """What the index has, in the order of names.

    :raises IsolationError: it cannot be read.
    """
    if os.environ.get(ISOLATED):
        return []
    return [_plugin(entry) for _, entry in sorted(read_index().items())]


def _plugin(entry: Entry) -> IsolatedPlugin:
    protocol = entry.description.get("protocol")
    trouble = environment_of(entry).trouble
    repair, upgrade = f"timmx plugins repair {entry.name}", f"timmx plugins upgrade {entry.name}"
    if trouble:
        return IsolatedPlugin(entry, _row(entry, "failed", trouble, repair))
    if protocol != PROTOCOL:
        text = f"it speaks version {protocol} of the protocol between environments, not {PROTOCOL}"
        newer = isinstance(protocol, int) and protocol > PROTOCOL
        remedy = "pip install --upgrade timmx-core" if newer else upgrade
        return IsolatedPlugin(entry, _row(entry, "incompatible", text, remedy))
    try:
        backends = tuple(read_formats(entry.description, entry.distribution))
    except InvalidBackendError as error:
        return IsolatedPlugin(entry, _row(entry, "failed", str(error), upgrade))
    formats = tuple(backend.name for backend in backends)
    return IsolatedPlugin(entry, _row(entry, "isolated", formats=formats), backends)


def _row(
    entry: Entry,
    status: Status,
    error: str = "",
    remedy: str = "",
    formats: tuple[str, ...] = (),
) -> PluginRow:
    return PluginRow(
        entry.name,
        entry.distribution,
        entry.version,
        formats=formats,
        status=status,
        error=error,
        remedy=remedy,
        environment=str(entry.path),
    )
