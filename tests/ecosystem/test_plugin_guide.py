"""The plugin that docs/plugin-guide.md builds works, and passes the suite that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from timmx_core.testing.distributions import fake_dist

pytest.importorskip("openvino")

GUIDE = Path(__file__).parents[2] / "docs" / "plugin-guide.md"
FILE = re.compile(
    r"^(?:not run: )?`([\w./]+\.(?:py|toml))`[^\n]*:\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's files, and the metadata that an installation would write."""
    folder = tmp_path_factory.mktemp("guide")
    files = dict(FILE.findall(GUIDE.read_text("utf-8")))
    files["src/timmx_openvino/__init__.py"] = ""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    told = tomllib.loads(files["pyproject.toml"])["project"]
    points = told["entry-points"]["timmx"]
    fake_dist(folder / "src", told["name"], told["version"], "", points)
    (folder / "src" / "timmx_openvino.py").unlink()
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_guide_shows_every_file(project: Path) -> None:
    names = {path.relative_to(project).as_posix() for path in project.rglob("*.py")}
    assert names == {
        "src/timmx_openvino/__init__.py",
        "src/timmx_openvino/backend.py",
        "src/timmx_openvino/plugin.py",
        "tests/test_contract.py",
    }


def test_it_passes_its_contract(project: Path) -> None:
    done = run(project, "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout[-3000:]


def test_its_command_works(project: Path) -> None:
    done = run(project, "timmx_core", "openvino", "test_resnet", "-o", "model.xml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("model.xml")
    assert "verified" in done.stderr
    assert run(project, "timmx_core", "verify", "model.xml").returncode == 0
