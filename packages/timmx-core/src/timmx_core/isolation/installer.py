"""Who makes environments and puts packages in: uv where it is, venv and pip where it is not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from timmx_core.errors import IsolationError
from timmx_core.isolation.plan import Change

CHOICE = "TIMMX_INSTALLER"
ALL = ":all:"


class NeedsBuildingError(IsolationError):
    """Wheels alone do not do: something would have to be built, which runs its author's code."""


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
    only_binary: tuple[str, ...] = ()  # of these wheels alone; `ALL`: nothing is built


class Installer(Protocol):
    """What timmx needs of a package installer. `python` names the environment to work on."""

    name: str

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """Make an empty virtual environment.

        :param folder: is there; what is in it stays.
        :param python: a version or an interpreter; None: this one's.
        :raises IsolationError: it cannot be made.
        """

    def plan(self, python: Path, order: Order) -> list[Change]:
        """What `install` would change; changes nothing.

        :raises NeedsBuildingError: not without building what the order wants as a wheel.
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


def installer_for_environments() -> Installer:
    """uv, or venv and pip; `TIMMX_INSTALLER=uv|pip` decides otherwise.

    :raises IsolationError: the one that was asked for is not here.
    """
    from timmx_core.isolation.pip import Pip
    from timmx_core.isolation.uv import Uv

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
    from timmx_core.isolation.pip import Pip
    from timmx_core.isolation.uv import Uv

    choice = os.environ.get(CHOICE, "")
    program = None if choice == "pip" else shutil.which("uv")
    if program is not None:
        return Uv(program)
    if importlib.util.find_spec("pip") is None:
        raise IsolationError(
            f"there is neither uv nor pip to install with in {sys.prefix}", "pip install uv"
        )
    return Pip()
