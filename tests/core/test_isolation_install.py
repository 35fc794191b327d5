"""`timmx plugins install`, `remove`, `upgrade`: what they show, ask, do, and leave alone."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from isolated_hosts import OFFLINE, Host, assert_told
from wheels import plugin_wheel, write_wheel

from timmx_core.errors import IsolationError
from timmx_core.isolation.installer import ALL, NeedsBuildingError, Order
from timmx_core.isolation.pip import Pip
from timmx_core.isolation.requirement import core_requirement

MODEL = "resnet18"


@pytest.fixture
def fresh(core_host: Host, tmp_path: Path) -> Host:
    """Core alone, with an empty home."""
    return core_host.at(tmp_path)


@pytest.fixture
def own_host(tmp_path: Path) -> Host:
    """An environment that a test may change, with `plum` 1."""
    plum = write_wheel(tmp_path / "links", "plum", "1", {"plum.py": ""}, requires=())
    write_wheel(tmp_path / "links", "plum", "2", {"plum.py": ""}, requires=())
    return Host.make(tmp_path / "env", plum)


def plum_plugin(folder: Path, name: str, plum: str, version: str = "1.0") -> Path:
    """A plugin that wants a certain plum."""
    wheel = plugin_wheel(folder / "made", name)
    module = f"timmx_{name}.py"
    source = zipfile.ZipFile(wheel).read(module)
    return write_wheel(
        folder / "links",
        f"timmx-{name}",
        version,
        {module: source},
        requires=("timmx-core", f"plum=={plum}"),
        plugin=module.removesuffix(".py"),
    )


def test_an_isolated_installation_leaves_the_host_as_it_was(fresh: Host, toast_wheel: Path) -> None:
    before = fresh.freeze()
    done = fresh.ok("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    assert done.stdout == ""
    assert f"timmx-toast 1.0 from {toast_wheel.as_uri()}" in done.stderr
    assert "timmx-core 0.1.0" in done.stderr
    assert "numpy " in done.stderr
    assert fresh.freeze() == before
    again = fresh.ok("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    assert "is installed already" in again.stderr
    (name,) = fresh.environments()
    removed = fresh.ok("plugins", "remove", "toast", "--yes")
    assert name in removed.stderr
    assert fresh.environments() == []
    assert fresh.plugins() == {}
    assert_told(fresh.run("plugins", "remove", "toast", "--yes"), 3, "no plugin toast")


def test_what_fits_goes_here_and_what_does_not_is_isolated(own_host: Host, tmp_path: Path) -> None:
    host, links = own_host, ("--find-links", tmp_path / "links")
    plum_plugin(tmp_path, "peel", "1")
    plum_plugin(tmp_path, "stone", "2")

    asked = host.run("plugins", "install", "peel", *links, "--offline")
    assert_told(asked, 2, "no terminal to ask at", "adds:     timmx-peel 1.0", "--yes")
    assert host.plugins() == {}
    done = host.ok("plugins", "install", "peel", *links, *OFFLINE)
    assert "replaces" not in done.stderr
    assert host.plugins()["peel"]["status"] == "ok"
    host.ok("peel", MODEL)
    plum_plugin(tmp_path, "peel", "1", version="1.1")
    done = host.ok("plugins", "install", "timmx-peel==1.1", *links, *OFFLINE)
    assert "replaces: timmx-peel 1.0 -> 1.1" in done.stderr
    assert host.plugins()["peel"]["version"] == "1.1"

    before = host.freeze()
    done = host.ok("plugins", "install", "stone", *links, *OFFLINE)
    assert "replace: plum 1 -> 2" in done.stderr
    assert "break:   timmx-peel 1.1 requires plum==1, and plum would be 2" in done.stderr
    assert "installed timmx-stone 1.0 in an environment of its own" in done.stderr
    assert host.freeze() == before
    assert host.plugins()["stone"]["status"] == "isolated"
    host.ok("stone", MODEL)
    shown = host.ok("--help").stdout
    assert "format peel" in shown
    assert "format stone" in shown

    done = host.ok("plugins", "install", "stone", "--here", *links, *OFFLINE)
    assert "replaces: plum 1 -> 2" in done.stderr
    assert "breaks:   timmx-peel 1.1 requires plum==1" in done.stderr
    assert "plum==2" in " ".join(host.freeze())
    rows = host.ok("plugins", "list").stdout
    assert "shadowed" in rows
    assert "timmx plugins remove --isolated stone" in rows
    done = host.ok("stone", MODEL, "--json", "--overwrite")
    assert str(host.folder) in done.stdout

    assert_told(host.run("plugins", "remove", "stone", "--yes"), 2, "--here or --isolated")
    host.ok("plugins", "remove", "stone", "--here", "--yes")
    assert host.plugins()["stone"]["status"] == "isolated"


def test_an_upgrade_makes_a_new_environment_and_then_drops_the_old(
    fresh: Host, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    plugin_wheel(links, "crumb", "1.0")
    fresh.ok("plugins", "install", "crumb", "--isolated", "--find-links", links, *OFFLINE)
    (old,) = fresh.environments()
    assert "is up to date" in fresh.ok("plugins", "upgrade", *OFFLINE).stderr
    assert fresh.environments() == [old]
    plugin_wheel(links, "crumb", "1.1")
    assert "is now timmx-crumb 1.1" in fresh.ok("plugins", "upgrade", "crumb", *OFFLINE).stderr
    assert fresh.plugins()["crumb"]["version"] == "1.1"
    (new,) = fresh.environments()
    assert new != old
    # A version that does not work is not taken, and the one before goes on working.
    plugin_wheel(links, "crumb", "1.2", prelude="raise RuntimeError('spoilt')")
    assert_told(fresh.run("plugins", "upgrade", *OFFLINE), 3, "spoilt")
    assert fresh.environments() == [new]
    fresh.ok("crumb", MODEL)
    # What is made again is what was there.
    (fresh.home / "envs" / new / "bin" / "python").unlink()
    fresh.ok("plugins", "repair", *OFFLINE)
    assert fresh.plugins()["crumb"]["version"] == "1.1"


def test_venv_and_pip_do_where_uv_is_not(fresh: Host, toast_wheel: Path) -> None:
    pip = {"TIMMX_INSTALLER": "pip"}
    words = ("plugins", "install", toast_wheel, "--isolated", "--yes")
    done = fresh.ok(*words, **pip)
    assert "by pip" in done.stderr
    assert "timmx-toast 1.0" in done.stderr
    fresh.ok("toast", MODEL)
    assert_told(fresh.run("plugins", "install", "x", *OFFLINE, TIMMX_INSTALLER="conda"), 4, "conda")
    missing = fresh.run(*words, "--python", "3.99", **pip)
    assert_told(missing, 4, "there is no Python 3.99")


def test_no_set_of_versions_fits(fresh: Host, tmp_path: Path) -> None:
    wheel = write_wheel(
        tmp_path, "timmx-crumb", "1.0", {}, requires=("timmx-core", "no-such-thing-of-ours==7")
    )
    done = fresh.run("plugins", "install", wheel, *OFFLINE)
    assert_told(done, 4, "no set of versions fits", "no-such-thing-of-ours")
    assert fresh.environments() == []


BACKEND = """
import pathlib
pathlib.Path(__file__).with_name("ran").write_text("")
raise SystemExit(1)
"""
TREE = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "timmx-crumb"
dependencies = ["timmx-core"]
"""


def source_tree(folder: Path, version: str) -> Path:
    """A plugin whose build backend leaves a trace."""
    tree = folder / "crumb"
    tree.mkdir()
    (tree / "pyproject.toml").write_text(TREE + version)
    (tree / "backend.py").write_text(BACKEND)
    return tree


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ('version = "1.0"', ("--isolated",)),
        ('dynamic = ["version"]', ("--isolated",)),
        ('dynamic = ["version"]', ()),
    ],
)
def test_nothing_of_a_package_runs_before_the_answer(
    fresh: Host, tmp_path: Path, version: str, words: tuple[str, ...]
) -> None:
    tree = source_tree(tmp_path, version)
    install: tuple[str | Path, ...] = ("plugins", "install", tree, *words, "--offline")
    asked = fresh.run(*install)
    assert_told(asked, 2, "there is no terminal to ask at")
    assert str(tree) in asked.stderr
    assert "runs code of" in asked.stderr
    assert not (tree / "ran").exists()
    assert fresh.environments() == []
    done = fresh.run(*install, "--yes")
    assert done.returncode == 4
    assert (tree / "ran").exists(), "who says yes has it built"


def test_pip_builds_nothing_before_the_answer(tmp_path: Path) -> None:
    tree = source_tree(tmp_path, 'version = "1.0"')
    for place in (str(tree), f"timmx-crumb @ {tree.as_uri()}"):
        with pytest.raises(NeedsBuildingError, match="crumb"):
            Pip().plan(Path(sys.executable), Order((place,), only_binary=(ALL,)))
    assert not (tree / "ran").exists()


def test_an_sdist_is_not_built_before_the_answer(fresh: Host, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    with tarfile.open(links / "timmx_crumb-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("pyproject.toml", TREE + 'version = "1.0"'), ("backend.py", BACKEND)):
            member = tarfile.TarInfo(f"timmx_crumb-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    install = ("plugins", "install", "crumb", "--isolated", "--offline", "--find-links", links)
    asked = fresh.run(*install)
    assert_told(asked, 2, "there is no terminal to ask at")
    assert "it has to be built from source, which runs code of its author" in asked.stderr


def test_a_core_that_is_gone_does_not_come_from_an_index(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = json.dumps({"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda *_: gone)
    with pytest.raises(IsolationError, match="gone, which is gone") as caught:
        core_requirement()
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("./nothing",), 2, "does not exist"),
        (("a b c",), 2, "no plugin's name"),
        (("toast", "timmx-toast"), 2, "toast is asked for twice"),
        (("toast", "--here", "--isolated"), 2, "exclude each other"),
        (("toast", "--here", "--python", "3.12"), 2, "--python"),
    ],
)
def test_words_that_make_no_sense(
    fresh: Host, words: tuple[str, ...], code: int, part: str
) -> None:
    assert_told(fresh.run("plugins", "install", *words, *OFFLINE), code, part)


def test_what_is_no_plugin_is_not_kept(fresh: Host, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "crumb", "1.0", {"crumb.py": ""}, requires=())
    done = fresh.run("plugins", "install", wheel, "--isolated", *OFFLINE)
    assert_told(done, 3, "brings no plugin", "did you mean timmx-crumb?")
    assert fresh.environments() == []


def test_a_format_that_another_environment_brings(fresh: Host, tmp_path: Path) -> None:
    first = plugin_wheel(tmp_path, "crumb")
    fresh.ok("plugins", "install", first, "--isolated", *OFFLINE)
    source = zipfile.ZipFile(first).read("timmx_crumb.py")
    second = write_wheel(
        tmp_path, "crumbs", "2.0", {"timmx_crumb.py": source}, plugin="timmx_crumb"
    )
    done = fresh.run("plugins", "install", second, "--isolated", *OFFLINE)
    assert_told(done, 3, "'crumb', which timmx-crumb 1.0 brings too")
    fresh.ok("crumb", MODEL)


def test_a_terminal_is_asked(fresh: Host, toast_wheel: Path) -> None:
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [fresh.timmx, "plugins", "install", toast_wheel, "--isolated", "--offline"],
        cwd=fresh.work,
        env=fresh.environment({"TERM": "dumb"}),
        stdin=secondary,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.write(primary, b"n\n")
    _, said = process.communicate(timeout=60)
    os.close(primary)
    os.close(secondary)
    assert process.returncode == 0
    assert "Make an environment for timmx-toast? [y/N]" in said
    assert fresh.environments() == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (" - torch==2.15.0\n + torch==2.14.1", [("torch", "2.15.0", "2.14.1")]),
        (" + a-b==1.0", [("a-b", None, "1.0")]),
        (" - gone==1", [("gone", "1", None)]),
        (" ~ here==1 (from file:///x)", [("here", "1", "1")]),
        (" + w @ file:///x/w-2.0-py3-none-any.whl", [("w", None, "2.0")]),
        ("Would install 1 package\nResolved 3 packages in 2ms", []),
    ],
)
def test_uvs_plan_is_read(said: str, expected: list[tuple[str, str | None, str | None]]) -> None:
    from timmx_core.isolation.uv import read_uv_plan

    assert [(c.name, c.before, c.after) for c in read_uv_plan(said)] == expected
