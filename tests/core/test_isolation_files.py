"""A file goes to the environment that knows its format, to be read and to be verified."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from isolated_hosts import OFFLINE, ROOT, Host, assert_told
from pocket_format import PocketBackend
from wheels import write_wheel

import timmx_core
from timmx_core.testing.plugins import manager_of

PLUGIN = """
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1


@hookimpl
def timmx_backends():
    from pocket_format import PocketBackend

    return [PocketBackend()]
"""


@pytest.fixture(scope="module")
def pocket_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified file of the format `pocket`, made in this process by torch."""
    path = tmp_path_factory.mktemp("made") / "model.pocket"
    manager = manager_of(PocketBackend())
    timmx_core.export("pocket", "test_resnet", output=str(path), manager=manager)
    return path


@pytest.fixture(scope="module")
def pockets(core_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host without torch whose plugin for `pocket` has an environment without torch."""
    host = core_host.at(tmp_path_factory.mktemp("pockets"))
    source = (ROOT / "tests/support/pocket_format.py").read_text()
    modules = {"timmx_pocket.py": PLUGIN, "pocket_format.py": source}
    wheel = write_wheel(host.work, "timmx-pocket", "1.0", modules, plugin="timmx_pocket")
    host.ok("plugins", "install", wheel, "--isolated", *OFFLINE)
    return host


@pytest.fixture
def host(pockets: Host, pocket_file: Path, tmp_path: Path) -> Host:
    """With the file in its folder."""
    host = Host(pockets.folder, tmp_path / "work", pockets.home)
    for file in pocket_file.parent.iterdir():
        shutil.copyfile(file, host.work / file.name)
    return host


def test_inspect_shows_the_file(host: Host) -> None:
    shown = host.ok("inspect", "model.pocket").stdout
    assert shown.startswith("file     model.pocket (pocket)\nmodel    test_resnet")
    assert "\nverdict  verified\n" in shown
    content = json.loads(host.ok("inspect", "model.pocket", "--json").stdout)
    assert content["embedded"] is True
    assert content["path"] == "model.pocket"


def test_its_suffix_does_without_a_record(host: Host) -> None:
    (host.work / "model.pocket.timmx.json").unlink()
    assert "there is no record beside" in host.ok("inspect", "model.pocket").stdout


def test_a_snippet_is_made_there(host: Host) -> None:
    source = host.ok("inspect", "model.pocket", "--snippet", "python").stdout
    assert "from pocket_format import PocketRunner" in source
    compile(source, "snippet", "exec")


def test_verify_runs_it_there(host: Host) -> None:
    done = host.ok("verify", "model.pocket")
    assert done.stdout == "verified\n"
    assert "by pocket on numpy" in done.stderr
    assert json.loads(host.ok("verify", "model.pocket", "--threads", "2", "--json").stdout)
    assert_told(host.run("verify", "model.pocket", "--threads", "0"), 2, "--threads is at least 1")
    assert_told(host.run("verify", "model.pocket", "--model", "x"), 2, "--probe-data")


def test_a_file_that_was_changed_fails(host: Host) -> None:
    path = host.work / "model.pocket"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = host.run("verify", "model.pocket")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("failed")
    assert_told(host.run("verify", "nothing.pocket"), 9, "does not exist")


def test_python_asks_there_too(host: Host) -> None:
    source = (
        "import timmx_core\n"
        "seen = timmx_core.inspect('model.pocket')\n"
        "assert (seen.format, seen.intact) == ('pocket', True)\n"
        "assert 'PocketRunner' in timmx_core.snippet(seen)\n"
        "assert timmx_core.verify('model.pocket').status == 'verified'\n"
    )
    done: subprocess.CompletedProcess[str] = host.script(source)
    assert (done.returncode, done.stderr) == (0, "")
