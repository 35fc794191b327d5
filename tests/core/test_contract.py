"""The kit for plugin authors, on a format that is written properly."""

from __future__ import annotations

from pocket_format import PocketBackend

from timmx_core.testing import BackendContract


class TestPocket(BackendContract):
    backend = PocketBackend
    unsupported = ({"level": 99},)
