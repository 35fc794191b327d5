"""`timmx plugins new`: what it writes, and what it refuses to write."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from timmx_core.errors import OutputError, RequestError
from timmx_core.scaffold import names_of, refuse_taken, write_plugin
from timmx_core.testing import ClosedManager
from timmx_core.testing.plugins import GivenFormats

TIMMX = Path(sys.executable).with_name("timmx")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TIMMX, "plugins", "new", *words], cwd=folder, capture_output=True, text=True
    )


def test_the_path_goes_to_stdout_and_the_files_to_stderr(tmp_path: Path) -> None:
    done = run(tmp_path, "my-format")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'timmx-my-format'}\n"
    written = {
        p.relative_to(tmp_path / "timmx-my-format") for p in tmp_path.rglob("*") if p.is_file()
    }
    told = {Path(line.strip()) for line in done.stderr.splitlines() if line.startswith("  ")}
    assert told == written
    assert [p.name for p in tmp_path.iterdir()] == ["timmx-my-format"]


def test_every_name_follows_from_the_formats(tmp_path: Path) -> None:
    folder = tmp_path / "anywhere"
    files = write_plugin(names_of("timmx-my-format"), folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "timmx-my-format"
    assert project["entry-points"]["timmx"] == {"my-format": "timmx_my_format.plugin"}
    for file in files:
        text = (folder / file).read_text("utf-8")
        assert "{{" not in text.replace("${{ matrix", "")
        if file.suffix == ".py":
            classes = [n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)]
            assert all("MyFormat" in name for name in classes)
            assert max(map(len, text.splitlines()), default=0) <= 100, file
    assert Path("src/timmx_my_format/py.typed") in files


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("My Format", "cannot be called"),
        ("../evil", "cannot be called"),
        ("x" * 50, "cannot be called"),
        ("", "cannot be called"),
        ("verify", "a word of timmx itself"),
        ("timmx-core", "timmx itself"),
    ],
)
def test_names_that_no_format_can_have(word: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        names_of(word)


def test_a_format_that_is_there_is_not_made_again() -> None:
    from pocket_format import PocketBackend

    manager = ClosedManager()
    manager.register(GivenFormats([PocketBackend()]), "pockets")
    with pytest.raises(RequestError, match="pockets has the format 'pocket' already"):
        refuse_taken(names_of("pocket"), manager)
    refuse_taken(names_of("bag"), manager)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file", "link"):
        with pytest.raises(OutputError, match="is there already"):
            write_plugin(names_of("a"), tmp_path / name)
    write_plugin(names_of("a"), tmp_path / "empty")
    with pytest.raises(OutputError, match="not a folder"):
        write_plugin(names_of("a"), tmp_path / "file" / "below")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full", "link"]


def test_an_empty_folder_is_filled_and_not_exchanged(tmp_path: Path) -> None:
    """The command goes on working in it."""
    number = tmp_path.stat().st_ino
    done = run(tmp_path, "toast", ".")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}\n"
    assert tmp_path.stat().st_ino == number
    assert (tmp_path / "pyproject.toml").is_file()
    assert list(tmp_path.glob(".timmx*")) == []


def test_it_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: 'list' is a word of timmx itself"
    assert not list(tmp_path.iterdir())
