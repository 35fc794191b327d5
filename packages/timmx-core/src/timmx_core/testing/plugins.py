"""Plugin managers that hold what a test gives them, and nothing that is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from timmx_core.backend import Backend
from timmx_core.hookspecs import API_VERSION, hookimpl
from timmx_core.plugins.manager import PluginManager


class ClosedManager(PluginManager):
    """Refuses discovery, so that a test cannot depend on what is installed.

    .. versionadded:: 0.1
    """

    @classmethod
    def discover(cls) -> NoReturn:
        """Raise, whatever is installed."""
        raise AssertionError("a test asked for the installed plugins; use the fake_dist fixture")


class GivenFormats:
    """A plugin object that brings the instances it was made with."""

    TIMMX_API_VERSION = API_VERSION

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._backends = list(backends)

    @hookimpl
    def timmx_backends(self) -> Iterable[Backend]:
        """The instances."""
        return self._backends


def manager_of(*backends: Backend) -> ClosedManager:
    """A manager with these formats and no others.

    :raises AssertionError: core would refuse one of them.

    .. versionadded:: 0.1
    """
    manager = ClosedManager()
    row = manager.register(GivenFormats(backends), "formats-under-test")
    assert row.status == "ok", row.error
    return manager
