"""The index of isolated plugins: what it names is an environment of its own, or it is damaged."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from timmx_core.errors import IsolationError, RequestError
from timmx_core.isolation.dialogue import Dialogue
from timmx_core.isolation.requirement import read_wanted
from timmx_core.isolation.upkeep import remove, repair
from timmx_core.plugins.environments.environment import Environment, new_environment, sweep
from timmx_core.plugins.environments.index import (
    DamagedIndexError,
    Entry,
    Recipe,
    change_index,
    index_file,
    keep_entry,
    kept_entries,
    read_index,
    write_index,
)
from timmx_core.plugins.environments.locks import locked
from timmx_core.plugins.manager import PluginManager
from timmx_core.progress import SilentReporter

FOLDER = "litert-0123abcd"


def entry(**changes: Any) -> dict[str, Any]:
    """One entry as JSON."""
    recipe = Recipe(requirement=("timmx-litert",), core=("timmx-core",))
    return asdict(Entry("litert", "timmx-litert", "0.1.0", "PyPI", FOLDER, recipe)) | changes


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(name: str, content: dict[str, Any]) -> None:
    index_file().parent.mkdir(parents=True, exist_ok=True)
    index_file().write_text(json.dumps({"schema": 1, "plugins": {name: content}}))


def test_an_entry_is_read_as_it_was_written() -> None:
    write("litert", entry())
    entries = read_index()
    assert entries["litert"].path.name == FOLDER
    write_index(entries)
    assert read_index() == entries


@pytest.mark.parametrize(
    "folder",
    [
        *("", ".", "..", "...", "a/b", "../litert-0123abcd", "/", "litert", "litert-0123abc"),
        *("litert-0123ABCD", "litert-0123abcd\n", "*-0123abcd", "onnx-0123abcd", "..-0123abcd"),
    ],
)
def test_a_folder_that_is_no_environment_of_its_own(folder: str) -> None:
    write("litert", entry(folder=folder))
    with pytest.raises(DamagedIndexError):
        read_index()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "*", "[a-z]", "Lite", "a b", "-a", "a\n"])
def test_a_name_that_no_plugin_has(name: str) -> None:
    write(name, entry(name=name, folder=f"{name}-0123abcd"))
    with pytest.raises(DamagedIndexError):
        read_index()


def test_an_entry_under_the_name_of_another() -> None:
    write("onnx", entry())
    with pytest.raises(DamagedIndexError):
        read_index()


def test_a_kept_entry_is_of_the_folder_that_it_lies_in(home: Path) -> None:
    write("litert", entry())
    keep_entry(read_index()["litert"])
    assert [kept.folder for kept in kept_entries()] == [FOLDER]
    (home / "envs" / FOLDER).rename(home / "envs" / "litert-89abcdef")
    assert [kept.folder for kept in kept_entries()] == ["litert-89abcdef"]
    (home / "envs" / "litert-89abcdef").rename(home / "envs" / "a copy")
    assert list(kept_entries()) == []


def test_a_plugin_named_index_does_not_wait_for_itself() -> None:
    write("litert", entry())
    with locked("index"):
        change_index(lambda entries: entries.clear())
    assert read_index() == {}


@pytest.mark.parametrize("name", ["a/b", "..", "x/../../y", "*"])
def test_a_source_tree_with_a_name_that_no_distribution_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    with pytest.raises(RequestError, match="holds no distribution"):
        read_wanted(str(tmp_path))


class Yes(Dialogue):
    """Agrees to everything, and keeps what it was shown."""

    def __init__(self) -> None:
        self.reporter = SilentReporter()
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def confirm(self, question: str) -> bool:
        return True


def made(folder: Path, name: str) -> Path:
    """A folder with something in it, and what is in it."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    file = folder / "bin" / name
    file.write_text("precious")
    return file


def test_a_folder_is_no_environment_for_its_name_alone(home: Path) -> None:
    envs = home / "envs"
    foreign = made(envs / "my-proj-12345678", "thesis.tex")
    copied, begun = new_environment("litert"), new_environment("litert")
    begun.begin()
    made(begun.folder, "python")
    copied.begin()
    renamed = copied.folder.rename(envs / "my-copy-12345678")
    made(renamed, "python")
    linked = envs / "my-link-12345678"
    linked.symlink_to(begun.folder)
    talk = Yes()
    assert repair([], dialogue=talk) == {}
    assert [str(begun.folder) in line for line in talk.shown] == [True]
    assert sorted(envs.iterdir()) == [renamed, linked, foreign.parents[1]]
    for name in ("my-proj", "my-copy", "my-link"):
        sweep(name)
    assert foreign.read_text() == "precious"
    assert (renamed / "bin" / "python").is_file()
    assert linked.is_symlink()


def test_an_environment_that_is_begun_is_swept_with_all_that_is_in_it(home: Path) -> None:
    unmarked, begun = new_environment("litert"), new_environment("litert")
    unmarked.folder.mkdir(parents=True)  # killed right after that
    begun.begin()
    made(begun.folder, "python")
    (begun.folder / "lib64").symlink_to("bin")
    sweep("litert")
    assert list((home / "envs").iterdir()) == []
    with pytest.raises(OSError, match="exists"):
        taken(home).begin()


def taken(home: Path) -> Environment:
    made(home / "envs" / FOLDER, "thesis.tex")
    return Environment(home / "envs" / FOLDER)


def test_an_entry_gives_no_folder_away(home: Path) -> None:
    file = made(home / "envs" / FOLDER, "thesis.tex")
    write("litert", entry())
    talk = Yes()
    manager = PluginManager()
    done = remove(["litert"], here=False, isolated=True, manager=manager, dialogue=talk)
    assert done == ["litert"]
    assert file.read_text() == "precious"
    assert "stays" in talk.shown[-1]
    assert read_index() == {}
    write("litert", entry())
    keep_entry(read_index()["litert"])
    remove(["litert"], here=False, isolated=True, manager=manager, dialogue=talk)
    assert not file.exists()


def test_a_pipe_is_no_index(home: Path) -> None:
    home.mkdir()
    os.mkfifo(index_file())
    with pytest.raises(IsolationError, match="is a pipe"):
        read_index()
    (home / "envs" / FOLDER).mkdir(parents=True)
    os.mkfifo(home / "envs" / FOLDER / "timmx-plugin.json")
    assert list(kept_entries()) == []
