"""Hosts with isolated plugins, made once: an environment takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from isolated_hosts import OFFLINE, Host
from wheels import plugin_wheel

# What the made-up plugin does while it is imported, where a test asks for it.
PRELUDE = """
if os.environ.get("TOAST_IMPORT") == "hang":
    time.sleep(60)
if os.environ.get("TOAST_IMPORT") == "fail":
    raise RuntimeError("its library is gone")
"""


@pytest.fixture(scope="session")
def core_host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Core alone; tests give it homes of their own with `Host.at`."""
    return Host.make(tmp_path_factory.mktemp("host") / "env")


@pytest.fixture(scope="session")
def toast_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a plugin that brings the made-up format `toast`."""
    return plugin_wheel(tmp_path_factory.mktemp("wheels"), "toast", prelude=PRELUDE)


@pytest.fixture(scope="session")
def toaster(core_host: Host, toast_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with `toast` in an environment of its own, which no test changes."""
    host = core_host.at(tmp_path_factory.mktemp("toaster"))
    host.ok("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    return host


@pytest.fixture
def host(toaster: Host, tmp_path: Path) -> Host:
    """`toaster` in an empty folder."""
    return Host(toaster.folder, tmp_path / "work", toaster.home)
