"""The command that runs all tests runs all of them, and fails if one failed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import docrun
import pytest

CODES = {"first": 0, "second": 3, "third": 0}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_of_all", docrun.ROOT / "scripts/test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[[tool.hatch.envs.hatch-test.matrix]]\nname = {list(CODES)}\n")
    return path


def fake(name: str) -> Sequence[str]:
    """An environment whose tests end with a code, and that says so as pytest does."""
    said = f"==== 1 failed, {len(name)} passed in 0.5s ===="
    return [sys.executable, "-c", f"print({said!r}); raise SystemExit({CODES[name]})"]


@pytest.mark.parametrize(
    ("chosen", "code", "last"),
    [([], 1, "failed: second"), (["first", "third"], 0, "all passed")],
)
def test_one_that_fails_keeps_no_other_from_running(
    script: ModuleType,
    project: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    chosen: list[str],
    code: int,
    last: str,
) -> None:
    assert script.main(chosen, project, fake) == code
    printed = capfdbinary.readouterr().out.decode()
    shown, _, table = printed.partition("=== all")
    for name in chosen or CODES:
        summary = f"1 failed, {len(name)} passed in 0.5s"
        assert f"==== {summary} ====" in shown
        row = next(line for line in table.splitlines() if line.startswith(name))
        assert summary in row
        assert ("failed (3)" in row) is (CODES[name] == 3)
    assert table.splitlines()[-1] == last


def test_a_name_that_is_none(script: ModuleType, project: Path) -> None:
    assert script.main(["fourth"], project, fake) == 2


def test_every_folder_of_tests_is_run(script: ModuleType) -> None:
    folders = {path.parent.name for path in docrun.ROOT.glob("tests/*/test_*.py")}
    assert set(script.names_in(docrun.ROOT / "pyproject.toml")) == folders
    assert script.command_of("core")[1:] == ["-m", "hatch", "test", "-i", "name=core"]
