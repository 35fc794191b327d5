"""Fixtures for tests of plugins: `pytest_plugins = ["timmx_core.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from timmx_core.plugins.manager import use_manager
from timmx_core.testing.distributions import FakeDistributions
from timmx_core.testing.plugins import ClosedManager

if TYPE_CHECKING:
    from torch import nn


@pytest.fixture
def timmx_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private `TIMMX_HOME`: logs, caches and environments go there.

    .. versionadded:: 0.1
    """
    home = tmp_path / "timmx-home"
    monkeypatch.setenv("TIMMX_HOME", str(home))
    return home


@pytest.fixture
def plugin_manager() -> Iterator[ClosedManager]:
    """The process's plugin manager, empty; `register` adds to it, and discovery is refused.

    .. versionadded:: 0.1
    """
    manager = ClosedManager()
    with use_manager(manager):
        yield manager


@pytest.fixture
def fake_dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistributions]:
    """Writes distributions that look installed: `fake_dist("timmx-x", plugin_source("x"))`.

    .. versionadded:: 0.1
    """
    distributions = FakeDistributions(tmp_path / "site", monkeypatch)
    yield distributions
    distributions.forget()


@pytest.fixture(scope="session")
def tiny_cnn() -> Callable[..., nn.Module]:
    """Makes a CNN with batch norm and a residual, for (3, 32, 32).

    .. versionadded:: 0.1
    """
    from timmx_core.testing import models

    return models.tiny_cnn


@pytest.fixture(scope="session")
def tiny_vit() -> Callable[..., nn.Module]:
    """Makes a vision transformer of two blocks, for (3, 32, 32).

    .. versionadded:: 0.1
    """
    from timmx_core.testing import models

    return models.tiny_vit


@pytest.fixture(scope="session")
def two_outputs() -> Callable[..., nn.Module]:
    """Makes a model that gives logits and a feature map, for (3, 32, 32).

    .. versionadded:: 0.1
    """
    from timmx_core.testing import models

    return models.two_outputs
