"""What would be published works: built, installed from the files alone, and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import docrun
import pytest

ROOT = docrun.ROOT
PROJECTS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
# Without those of the environment that the tests run in.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    trouble = f"{command}: exit code {done.returncode}\n{done.stderr}"
    assert done.returncode == 0, trouble + done.stdout[-3000:]
    return done.stdout


def make_venv(folder: Path) -> Path:
    """An empty virtual environment of the tests' own Python; gives its python."""
    run("uv", "venv", "--quiet", "--python", sys.executable, folder, cwd=folder.parent)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of every package."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, ROOT / "scripts" / "build.py", folder, cwd=ROOT)
    return folder


def requirement(dist: Path, project: str) -> str:
    """`project` in the version that was just built, whatever a registry has."""
    (wheel,) = dist.glob(f"{project.replace('-', '_')}-*.whl")
    return f"{project}=={wheel.name.split('-')[1]}"


@pytest.mark.parametrize("project", PROJECTS)
def test_both_archives_are_complete(dist: Path, project: str) -> None:
    stem = f"{project.replace('-', '_')}-*"
    (wheel,) = dist.glob(f"{stem}.whl")
    (sdist,) = dist.glob(f"{stem}.tar.gz")
    package = project.replace("-", "_")

    inside = zipfile.ZipFile(wheel).namelist()
    assert f"{package}/py.typed" in inside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in inside)
    assert all(name.startswith((f"{package}/", f"{package}-")) for name in inside)

    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", f"src/{package}/__init__.py"} <= names


@pytest.mark.slow
def test_the_main_job_from_wheels(dist: Path, tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    install = ("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    wanted = [requirement(dist, name) for name in ("timmx-core", "timmx-onnx")]
    run(*install, "--find-links", dist, *wanted, cwd=tmp_path)

    printed = run(python.parent / "timmx", "onnx", "resnet18", "--json", cwd=tmp_path)
    assert json.loads(printed)["verdict"]["status"] == "verified"
    assert (tmp_path / "resnet18.onnx").stat().st_size > 30e6  # 11.7 million weights
    assert (tmp_path / "resnet18.onnx.timmx.json").is_file()

    places = run(python, "-c", "import timmx_core as c; print(c.__file__)", cwd=tmp_path)
    assert str(tmp_path) in places


@pytest.mark.slow
def test_the_first_command_of_the_readme(tmp_path: Path) -> None:
    """As it is there, but for uv in pip's place: hard links instead of 5 GB of downloads."""
    (command,) = (
        fence.body
        for fence in docrun.read_fences(ROOT / "README.md")
        if "install ./packages/timmx-core" in fence.body
    )
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    script = command.replace(
        "python3 -m venv .venv", f"uv venv --quiet --python {sys.executable} .venv"
    ).replace(".venv/bin/pip install", "uv pip install --quiet --compile-bytecode --python .venv")
    assert script.count("uv ") == 2
    printed = run("bash", "-c", script, cwd=tmp_path)
    assert printed.strip() == str(tmp_path / "resnet18.onnx")


@pytest.mark.slow
def test_a_plugin_from_nothing(dist: Path, tmp_path: Path) -> None:
    """`timmx plugins new`, its wheel in an empty environment, its command, and its own tests."""
    new = run(Path(sys.executable).with_name("timmx"), "plugins", "new", "of-mine", cwd=tmp_path)
    project = Path(new.strip())
    run("uv", "build", "--quiet", "--out-dir", tmp_path / "built", project, cwd=tmp_path)
    (wheel,) = (tmp_path / "built").glob("timmx_of_mine-0.1.0-*.whl")
    assert (tmp_path / "built" / "timmx_of_mine-0.1.0.tar.gz").is_file()

    python = make_venv(tmp_path / "venv")
    install = ("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    run(
        *install,
        "--find-links",
        dist,
        requirement(dist, "timmx-core"),
        f"{wheel}[test]",
        cwd=tmp_path,
    )

    printed = run(python.parent / "timmx", "of-mine", "resnet18", "--json", cwd=tmp_path)
    assert json.loads(printed)["verdict"]["status"] == "verified"
    assert (tmp_path / "resnet18.of-mine").is_file()
    # Its sources are not on the path: what is tested is what was installed.
    shutil.rmtree(project / "src")
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
