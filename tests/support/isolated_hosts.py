"""A `timmx` of its own for tests of isolated plugins: core alone, without torch, in an own home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "packages" / "timmx-core"
# What is made up is on no index, and must not be looked for there.
OFFLINE = ("--offline", "--yes")


def uv() -> str:
    """The uv that the test environment has."""
    found = shutil.which(
        "uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert found is not None, "uv is not installed in this test environment"
    return found


class Host:
    """A virtual environment with core, and how its `timmx` is run."""

    def __init__(self, folder: Path, work: Path, home: Path) -> None:
        self.folder = folder
        self.work = work
        self.home = home
        work.mkdir(parents=True, exist_ok=True)

    @classmethod
    def make(cls, folder: Path, *requirements: str | Path) -> Host:
        """A new environment with core as the checkout has it."""
        _uv("venv", "--python", sys.executable, folder)
        host = cls(folder, folder.parent / "work", folder.parent / "home")
        host.add("-e", CORE, *requirements)
        return host

    def add(self, *words: str | Path) -> None:
        """Install something into the host's environment."""
        _uv("pip", "install", "--python", self.python, *words)

    def at(self, folder: Path) -> Host:
        """The same environment with another home and working folder."""
        return Host(self.folder, folder / "work", folder / "home")

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def timmx(self) -> Path:
        return self.folder / "bin" / "timmx"

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        dropped = ("PYTHONPATH", "VIRTUAL_ENV", "TIMMX_INSTALLER", "UV_OFFLINE")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(uv()).parent), kept["PATH"]])
        # What is imported compiles itself then; all of numpy would take seconds each time.
        own = {"PATH": path, "TIMMX_HOME": str(self.home), "UV_COMPILE_BYTECODE": "0"}
        return kept | own | dict(variables)

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Begin a run of `timmx`, as the leader of a process group."""
        return subprocess.Popen(
            [self.timmx, *words],
            cwd=self.work,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A whole run of `timmx`."""
        return subprocess.run(
            [self.timmx, *words],
            cwd=self.work,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def ok(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A run that must succeed."""
        done = self.run(*words, **variables)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def script(self, source: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A Python program in the host's environment."""
        return subprocess.run(
            [self.python, "-c", source],
            cwd=self.work,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    @property
    def files(self) -> list[str]:
        """What is in the working folder."""
        return sorted(path.name for path in self.work.iterdir())

    def plugins(self) -> dict[str, dict[str, Any]]:
        """The rows of `timmx plugins list`, by name."""
        rows = json.loads(self.ok("plugins", "list", "--json").stdout)["plugins"]
        return {row["name"]: row for row in rows}

    def environments(self) -> list[str]:
        """The folders of environments."""
        folder = self.home / "envs"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def freeze(self) -> list[str]:
        """What is installed in the host's environment."""
        return _uv("pip", "freeze", "--python", self.python).splitlines()


def _uv(*words: str | Path) -> str:
    done = subprocess.run([uv(), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Until a file is there, which the process is to make."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} was not made"
        time.sleep(0.02)


def assert_told(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """An error in a line or two, with its exit code and without a traceback."""
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    for part in ("error: ", *parts):
        assert part in done.stderr, done.stderr
