"""Running an installer, and what its failure means."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from timmx_core.errors import IsolationError

TAIL = 12  # lines
NO_ROOM = re.compile(r"no space left|disk quota exceeded|file too large|os error 28", re.IGNORECASE)
NO_SOLUTION = re.compile(
    r"no solution found|no matching distribution|resolutionimpossible|requires-python"
    r"|could not find a version",
    re.IGNORECASE,
)


def call(command: Sequence[str], doing: str, given: str = "") -> str:
    """Run an installer, and give everything that it says.

    :raises IsolationError: it failed; the last lines of what it said are its `log_tail`.
    """
    try:
        done = subprocess.run(
            list(command),
            env=_environment(),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise IsolationError(
            f"{command[0]} cannot be started: {error.strerror or error}"
        ) from error
    if done.returncode == 0:
        return done.stdout
    raise _failure(Path(command[0]).name, doing, done.returncode, done.stdout)


def _failure(program: str, doing: str, code: int, said: str) -> IsolationError:
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    if NO_ROOM.search(said) or code in (-25, 153):  # SIGXFSZ
        error = IsolationError(
            f"could not {doing}: the disk is full",
            "make room, or set TIMMX_HOME to a folder on another disk",
        )
    elif NO_SOLUTION.search(said):
        error = IsolationError(
            f"could not {doing}: no set of versions fits",
            "another Python may do (--python 3.12); what the installer says is above",
        )
    else:
        error = IsolationError(f"could not {doing}: {program} failed ({how})")
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    error.log_tail = "\n".join(lines[-TAIL:])
    return error


def _environment() -> dict[str, str]:
    """For installers: nothing that leads them to another environment."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET"}
    dropped |= {
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_REQUIRE_VIRTUALENV",
        "UV_SYSTEM_PYTHON",
        "UV_VENV_CLEAR",
    }
    kept = {k: v for k, v in os.environ.items() if k not in dropped} | {"NO_COLOR": "1"}
    # uv compiles nothing by itself, and the first export would have to compile torch and timm.
    kept.setdefault("UV_COMPILE_BYTECODE", "1")
    return kept
