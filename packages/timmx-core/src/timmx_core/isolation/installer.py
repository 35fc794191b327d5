"""Who makes environments and puts packages in: uv where it is, venv and pip where it is not."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from packaging.utils import canonicalize_name

from timmx_core.errors import IsolationError
from timmx_core.isolation.plan import Change
from timmx_core.isolation.requirement import version_at

CHOICE = "TIMMX_INSTALLER"
TAIL = 12  # lines
NO_ROOM = re.compile(r"no space left|disk quota exceeded|file too large|os error 28", re.IGNORECASE)
NO_SOLUTION = re.compile(
    r"no solution found|no matching distribution|resolutionimpossible|requires-python"
    r"|could not find a version",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Order:
    """What is to be installed, and from where."""

    arguments: tuple[str, ...]  # as pip takes them
    index_url: str | None = None
    find_links: tuple[str, ...] = ()
    offline: bool = False
    upgrade: Literal["", "named", "all"] = ""
    fresh: tuple[str, ...] = ()  # distributions whose source trees are to be built anew
    named: str = ""  # the distribution that this is about


class Installer(Protocol):
    """What timmx needs of a package installer. `python` names the environment to work on."""

    name: str

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """Make an empty virtual environment.

        :param python: a version or an interpreter; None: this one's.
        :raises IsolationError: it cannot be made.
        """

    def plan(self, python: Path, order: Order) -> list[Change]:
        """What `install` would change; changes nothing.

        :raises IsolationError: the requirements cannot be met.
        """

    def install(self, python: Path, order: Order) -> None:
        """Install.

        :raises IsolationError: it failed.
        """

    def uninstall(self, python: Path, distribution: str) -> None:
        """Uninstall one distribution, and nothing that it needed.

        :raises IsolationError: it failed.
        """


class Uv:
    """`uv venv` and `uv pip`."""

    name = "uv"

    def __init__(self, program: str) -> None:
        self.program = program

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """See `Installer.create`."""
        words = ["venv", "--no-project", "--python", python or sys.executable, str(folder)]
        _call([self.program, *words, *(["--offline"] if offline else [])], "make the environment")

    def plan(self, python: Path, order: Order) -> list[Change]:
        """See `Installer.plan`."""
        said = _call([*self._pip("install", python), "--dry-run", *self._words(order)], "resolve")
        return [self._with_origin(change, order) for change in read_uv_plan(said)]

    def _with_origin(self, change: Change, order: Order) -> Change:
        """For the distribution that is asked for: the index or folder that has it."""
        if change.source or change.after is None or not _same(change.name, order.named):
            return change
        wanted = replace(order, arguments=("-",), upgrade="", fresh=())
        words = ["--no-deps", "--no-header", "--no-annotate", "--emit-index-annotation", "--quiet"]
        try:
            said = _call(
                [self.program, "pip", "compile", *words, *self._words(wanted)],
                "find its origin",
                f"{change.name}=={change.after}\n",
            )
        except IsolationError:
            return change  # an older uv: nobody says where it is from
        found = re.search(r"# from (\S+)", said)
        return replace(change, source=found[1]) if found else change

    def install(self, python: Path, order: Order) -> None:
        """See `Installer.install`."""
        _call([*self._pip("install", python), *self._words(order)], "install")

    def uninstall(self, python: Path, distribution: str) -> None:
        """See `Installer.uninstall`."""
        _call([*self._pip("uninstall", python), distribution], "uninstall")

    def _pip(self, verb: str, python: Path) -> list[str]:
        return [self.program, "pip", verb, "--python", str(python)]

    @staticmethod
    def _words(order: Order) -> list[str]:
        words = ["--index-url", order.index_url] if order.index_url else []
        words += [word for place in order.find_links for word in ("--find-links", place)]
        words += [word for name in order.fresh for word in ("--refresh-package", name)]
        words += ["--offline"] if order.offline else []
        words += ["--upgrade"] if order.upgrade == "all" else []
        words += ["--upgrade-package", order.named] if order.upgrade == "named" else []
        return [*words, *order.arguments]


class Pip:
    """`python -m venv` and the environment's own pip."""

    name = "pip"

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """See `Installer.create`."""
        interpreter = _interpreter(python)
        _call([interpreter, "-I", "-m", "venv", str(folder)], "make the environment")

    def plan(self, python: Path, order: Order) -> list[Change]:
        """See `Installer.plan`."""
        handle, name = tempfile.mkstemp(prefix="timmx-plan-", suffix=".json")
        os.close(handle)
        report = Path(name)
        try:
            words = ["--dry-run", "--quiet", "--report", name]
            _call([*self._pip("install", python), *words, *self._words(order)], "resolve")
            return read_pip_plan(report.read_bytes())
        finally:
            report.unlink(missing_ok=True)

    def install(self, python: Path, order: Order) -> None:
        """See `Installer.install`."""
        _call([*self._pip("install", python), *self._words(order)], "install")

    def uninstall(self, python: Path, distribution: str) -> None:
        """See `Installer.uninstall`."""
        _call([*self._pip("uninstall", python), "--yes", distribution], "uninstall")

    @staticmethod
    def _pip(verb: str, python: Path) -> list[str]:
        words = ["--no-input", "--disable-pip-version-check"]
        return [str(python), "-I", "-m", "pip", verb, *words]

    @staticmethod
    def _words(order: Order) -> list[str]:
        words = ["--index-url", order.index_url] if order.index_url else []
        words += [word for place in order.find_links for word in ("--find-links", place)]
        # pip has no way to its cache alone.
        words += ["--no-index"] if order.offline else []
        strategies = {"named": "only-if-needed", "all": "eager"}
        if order.upgrade:
            words += ["--upgrade", "--upgrade-strategy", strategies[order.upgrade]]
        return [*words, *order.arguments]


def installer_for_environments() -> Installer:
    """uv, or venv and pip; `TIMMX_INSTALLER=uv|pip` decides otherwise.

    :raises IsolationError: the one that was asked for is not here.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "uv", "pip"):
        raise IsolationError(f"{CHOICE} is uv or pip, not {choice!r}")
    program = None if choice == "pip" else shutil.which("uv")
    if program is not None:
        return Uv(program)
    if choice == "uv":
        raise IsolationError(f"{CHOICE} asks for uv, which is not on PATH", "pip install uv")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise IsolationError(
            "this Python can make no environments: it lacks venv or ensurepip",
            "install uv, or the system's package of Python's venv",
        )
    return Pip()


def installer_for_here() -> Installer:
    """Who can install into this environment, which need not have pip.

    :raises IsolationError: nobody.
    """
    choice = os.environ.get(CHOICE, "")
    program = None if choice == "pip" else shutil.which("uv")
    if program is not None:
        return Uv(program)
    if importlib.util.find_spec("pip") is None:
        raise IsolationError(
            f"there is neither uv nor pip to install with in {sys.prefix}", "pip install uv"
        )
    return Pip()


def read_uv_plan(said: str) -> list[Change]:
    """The lines ` - torch==2.15.0`, ` + torch==2.14.1`, ` + x @ file:///...` of a dry run."""
    before: dict[str, str] = {}
    after: dict[str, tuple[str | None, str]] = {}
    for line in said.splitlines():
        match = re.fullmatch(
            r" ([-+~]) ([A-Za-z0-9._-]+)(?:==(\S+)| @ (\S+))?(?: \(from (.+)\))?", line
        )
        if match is None:
            continue
        sign, name, version, url, source = match.groups()
        if sign == "-":
            before[name] = version or ""
        else:
            after[name] = (version or version_at(url or ""), url or source or "")
            if sign == "~":
                before[name] = version or ""
    names = sorted({*before, *after})
    changes = []
    for name in names:
        version, source = after.get(name, (None, ""))
        new = (version or "") if name in after else None
        changes.append(Change(name, before.get(name), new, source))
    return changes


def read_pip_plan(report: bytes) -> list[Change]:
    """What `pip install --report` says of what it would install.

    :raises IsolationError: it is no such report.
    """
    try:
        found = json.loads(report)["install"]
        return [
            Change(
                item["metadata"]["name"],
                None,
                item["metadata"]["version"],
                item["download_info"]["url"],
            )
            for item in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise IsolationError(f"pip's report cannot be read: {error!r}", "install uv") from error


def _interpreter(python: str | None) -> str:
    """:raises IsolationError: there is none."""
    if python is None:
        # A base interpreter: environments made from an environment end with it.
        base: str | None = getattr(sys, "_base_executable", None)
        return base if base and Path(base).exists() else sys.executable
    for word in (python, f"python{python}"):
        found = shutil.which(word)
        if found is not None:
            return found
    raise IsolationError(
        f"there is no Python {python} here", "name an interpreter that is: --python /path/to/python"
    )


def _environment() -> dict[str, str]:
    """For installers: nothing that leads them to another environment."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET"}
    dropped |= {"PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "UV_SYSTEM_PYTHON"}
    kept = {k: v for k, v in os.environ.items() if k not in dropped} | {"NO_COLOR": "1"}
    # uv compiles nothing by itself, and the first export would have to compile torch and timm.
    kept.setdefault("UV_COMPILE_BYTECODE", "1")
    return kept


def _same(one: str, other: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other)


def _call(command: Sequence[str], doing: str, given: str = "") -> str:
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
