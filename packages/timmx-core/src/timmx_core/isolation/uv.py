"""Environments and packages by uv."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from packaging.utils import canonicalize_name

from timmx_core.errors import IsolationError
from timmx_core.isolation.installer import NeedsBuildingError, Order
from timmx_core.isolation.plan import Change
from timmx_core.isolation.program import call
from timmx_core.isolation.requirement import version_at

UNBUILT = re.compile(r"no usable wheels|building from source is disabled|Building .* is disabled")


class Uv:
    """`uv venv` and `uv pip`."""

    name = "uv"

    def __init__(self, program: str) -> None:
        self.program = program

    def create(self, folder: Path, python: str | None, *, offline: bool) -> None:
        """See `Installer.create`."""
        words = ["venv", "--no-project", "--allow-existing", "--python", python or sys.executable]
        words.append(str(folder))
        call([self.program, *words, *(["--offline"] if offline else [])], "make the environment")

    def plan(self, python: Path, order: Order) -> list[Change]:
        """See `Installer.plan`."""
        try:
            said = call(
                [*self._pip("install", python), "--dry-run", *self._words(order)], "resolve"
            )
        except IsolationError as error:
            if order.only_binary and UNBUILT.search(error.log_tail):
                raise _needs_building(error) from error
            raise
        return [self._with_origin(change, order) for change in read_uv_plan(said)]

    def _with_origin(self, change: Change, order: Order) -> Change:
        """For the distribution that is asked for: the index or folder that has it."""
        if change.source or change.after is None or not _same(change.name, order.named):
            return change
        wanted = replace(order, arguments=("-",), upgrade="", fresh=())
        words = ["--no-deps", "--no-header", "--no-annotate", "--emit-index-annotation", "--quiet"]
        try:
            said = call(
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
        call([*self._pip("install", python), *self._words(order)], "install")

    def uninstall(self, python: Path, distribution: str) -> None:
        """See `Installer.uninstall`."""
        call([*self._pip("uninstall", python), distribution], "uninstall")

    def _pip(self, verb: str, python: Path) -> list[str]:
        return [self.program, "pip", verb, "--python", str(python)]

    @staticmethod
    def _words(order: Order) -> list[str]:
        words = ["--index-url", order.index_url] if order.index_url else []
        words += [word for place in order.find_links for word in ("--find-links", place)]
        # uv has it that what is refreshed may be on the network.
        fresh = () if order.offline else order.fresh
        words += [word for name in fresh for word in ("--refresh-package", name)]
        words += [word for name in order.only_binary for word in ("--only-binary", name)]
        words += ["--offline"] if order.offline else []
        words += ["--upgrade"] if order.upgrade == "all" else []
        words += ["--upgrade-package", order.named] if order.upgrade == "named" else []
        return [*words, *order.arguments]


def read_uv_plan(said: str) -> list[Change]:
    """The lines ` - torch==2.15.0`, ` + torch==2.14.1`, ` + x @ file:///...` of a dry run."""
    before: dict[str, str] = {}
    after: dict[str, tuple[str | None, str]] = {}
    built: dict[str, bool] = {}
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
            built[name] = bool(url) and not url.partition("#")[0].endswith(".whl")
            if sign == "~":
                before[name] = version or ""
    names = sorted({*before, *after})
    changes = []
    for name in names:
        version, source = after.get(name, (None, ""))
        new = (version or "") if name in after else None
        changes.append(Change(name, before.get(name), new, source, built.get(name, False)))
    return changes


def _needs_building(error: IsolationError) -> NeedsBuildingError:
    needed = NeedsBuildingError("it has to be built from source, which runs code of its author")
    needed.log_tail = error.log_tail
    return needed


def _same(one: str, other: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other)
