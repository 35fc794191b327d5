"""The fixtures of the kit, as a plugin's own tests would use them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pocket_format import PocketBackend
from torch import nn

from timmx_core import api
from timmx_core.plugins.manager import PluginManager, get_manager
from timmx_core.process.paths import home
from timmx_core.testing import ClosedManager, manager_of
from timmx_core.testing.distributions import FakeDistributions, plugin_source
from timmx_core.testing.models import INPUT_SIZE
from timmx_core.testing.plugins import GivenFormats

pytest_plugins = ["timmx_core.testing.fixtures"]


def test_the_home_is_private(timmx_home: Path, tmp_path: Path) -> None:
    assert home() == timmx_home
    assert timmx_home.is_relative_to(tmp_path)


def test_the_manager_knows_what_it_is_given_and_nothing_installed(
    plugin_manager: ClosedManager, tmp_path: Path
) -> None:
    assert get_manager() is plugin_manager
    assert dict(plugin_manager.backends) == {}
    with pytest.raises(AssertionError, match="installed plugins"):
        type(plugin_manager).discover()
    plugin_manager.register(GivenFormats([PocketBackend()]), "pocket")
    assert list(plugin_manager.backends) == ["pocket"]


def test_a_format_that_core_would_refuse_is_refused() -> None:
    class Nameless(PocketBackend):
        name = "List"

    with pytest.raises(AssertionError, match="List"):
        manager_of(Nameless())


def test_fake_distributions_are_found_like_installed_ones(fake_dist: FakeDistributions) -> None:
    fake_dist("timmx-good", plugin_source("good"), version="1.2")
    fake_dist("timmx-broken", plugin_source("broken", prelude="raise ImportError('no libfoo')"))
    fake_dist("timmx-slow", plugin_source("slow", prelude="import time; time.sleep(0.2)"))
    fake_dist("timmx-future", plugin_source("future", version=99))
    fake_dist("timmx-twin", plugin_source("good"))
    rows = {row.name: row for row in PluginManager.discover().rows}
    assert rows["good"].version == "1.2"
    assert {name: rows[name].status for name in ("good", "broken", "slow", "future", "twin")} == {
        "good": "clash",
        "broken": "failed",
        "slow": "ok",
        "future": "incompatible",
        "twin": "clash",
    }
    assert "no libfoo" in rows["broken"].error
    assert rows["slow"].seconds >= 0.2


def test_other_processes_find_them_too(fake_dist: FakeDistributions, tmp_path: Path) -> None:
    fake_dist("timmx-elsewhere", plugin_source("elsewhere"))
    printed = subprocess.run(
        [sys.executable, "-m", "timmx_core", "plugins", "list", "--json"],
        env={"PATH": "", "HOME": str(tmp_path), **fake_dist.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '"elsewhere"' in printed


@pytest.mark.parametrize("name", ["tiny_cnn", "tiny_vit", "two_outputs"])
def test_tiny_models_export_and_hide_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make: Callable[..., nn.Module] = request.getfixturevalue(name)
    one, again, other = make(), make(), make(seed=1)
    weights = one.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in again.state_dict().items())
    assert any(not torch.equal(v, weights[k]) for k, v in other.state_dict().items())
    result = api.export(
        "pocket",
        one,
        input_size=INPUT_SIZE,
        output=tmp_path / "model.pocket",
        manager=manager_of(PocketBackend()),
    )
    worst = result.verdict.worst
    assert worst is not None
    assert worst.snr_db is not None
    assert worst.snr_db > 100
