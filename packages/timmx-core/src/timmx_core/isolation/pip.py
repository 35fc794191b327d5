"""Environments by venv, and packages by the environment's own pip."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from timmx_core.errors import IsolationError
from timmx_core.isolation.installer import ALL, NeedsBuildingError, Order
from timmx_core.isolation.plan import Change
from timmx_core.isolation.program import NO_SOLUTION, call


class Pip:
    """`python -m venv` and the environment's own pip."""

    name = "pip"

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """See `Installer.create`."""
        interpreter = _interpreter(python)
        call([interpreter, "-I", "-m", "venv", str(folder)], "make the environment")

    def plan(self, python: Path, order: Order) -> list[Change]:
        """See `Installer.plan`."""
        if ALL in order.only_binary:
            self._refuse_sources(order)
        handle, name = tempfile.mkstemp(prefix="timmx-plan-", suffix=".json")
        os.close(handle)
        report = Path(name)
        try:
            words = ["--dry-run", "--quiet", "--report", name]
            try:
                call([*self._pip("install", python), *words, *self._words(order)], "resolve")
            except IsolationError as error:
                if ALL not in order.only_binary or not NO_SOLUTION.search(error.log_tail):
                    raise
                # pip does not say whether sources would have done.
                needed = NeedsBuildingError(
                    "there are no wheels that fit; sources may do, and building runs their code"
                )
                needed.log_tail = error.log_tail
                raise needed from error
            return read_pip_plan(report.read_bytes())
        finally:
            report.unlink(missing_ok=True)

    def install(self, python: Path, order: Order) -> None:
        """See `Installer.install`."""
        call([*self._pip("install", python), *self._words(order)], "install")

    def uninstall(self, python: Path, distribution: str) -> None:
        """See `Installer.uninstall`."""
        call([*self._pip("uninstall", python), "--yes", distribution], "uninstall")

    @staticmethod
    def _refuse_sources(order: Order) -> None:
        """pip builds what it is given as source even to look at it."""
        from timmx_core.isolation.unbuilt import sources_in

        place = next(sources_in(order.arguments), None)
        if place is not None:
            raise NeedsBuildingError(
                f"{place} has to be built, which runs code of its author: pip cannot say otherwise "
                "what it needs"
            )

    @staticmethod
    def _pip(verb: str, python: Path) -> list[str]:
        words = ["--no-input", "--disable-pip-version-check"]
        return [str(python), "-I", "-m", "pip", verb, *words]

    @staticmethod
    def _words(order: Order) -> list[str]:
        words = ["--index-url", order.index_url] if order.index_url else []
        words += [word for place in order.find_links for word in ("--find-links", place)]
        words += [word for name in order.only_binary for word in ("--only-binary", name)]
        # pip has no way to its cache alone.
        words += ["--no-index"] if order.offline else []
        strategies = {"named": "only-if-needed", "all": "eager"}
        if order.upgrade:
            words += ["--upgrade", "--upgrade-strategy", strategies[order.upgrade]]
        return [*words, *order.arguments]


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
                not item["download_info"]["url"].partition("#")[0].endswith(".whl"),
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
