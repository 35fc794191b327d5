"""A plugin whose author has not followed the contract's last version."""

from __future__ import annotations

from faulty_formats import NotExporting

from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 0


class OldContract(NotExporting):
    """Brought by a module of version 0."""


@hookimpl
def timmx_backends() -> list[OldContract]:
    return [OldContract()]
