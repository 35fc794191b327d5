"""Distributions that look installed, written into a folder: metadata, entry point and module.

So broken, slow, incompatible and clashing plugins are tested without pip, in this process and,
with the folder on `PYTHONPATH`, in others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from timmx_core.hookspecs import API_VERSION

BACKEND = """
from timmx_core.backend import Backend, Precision
from timmx_core.errors import CannotRunHere, ExportError


class FakeBackend(Backend):
    name = {format!r}
    help = "A format for tests, which cannot be exported to."
    suffixes = (".{format}",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)

    def export(self, model, request, context):
        raise ExportError("a fake format exports nothing")

    def open(self, path, options):
        raise CannotRunHere("a fake format runs nowhere")
"""
PLUGIN = (
    BACKEND
    + """

from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = {version}
{prelude}

@hookimpl
def timmx_backends():
    return [FakeBackend()]
"""
)


def plugin_source(format: str, *, version: int = API_VERSION, prelude: str = "") -> str:
    """A plugin module with one format, which is described and never exports.

    :param version: of the contract; another one makes it incompatible.
    :param prelude: code that runs while the module is imported: `raise ...`, `time.sleep(...)`.

    .. versionadded:: 0.1
    """
    return PLUGIN.format(format=format, version=version, prelude=prelude)


def fake_dist(
    path: Path,
    name: str,
    version: str,
    module_source: str,
    entry_points: Mapping[str, str] | str | None = None,
) -> Path:
    """Write a distribution's metadata and its one module below `path`.

    :param name: as on a registry: "timmx-good".
    :param entry_points: name to value within the group `timmx`; or the whole text of
        `entry_points.txt`; by default the distribution's short name leads to the module.
    :return: the module's file.

    .. versionadded:: 0.1
    """
    module = name.replace("-", "_")
    if entry_points is None:
        entry_points = {name.removeprefix("timmx-"): module}
    if not isinstance(entry_points, str):
        lines = [f"{point} = {value}" for point, value in entry_points.items()]
        entry_points = "\n".join(["[timmx]", *lines, ""])
    info = path / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    file = path / f"{module}.py"
    file.write_text(module_source, encoding="utf-8")
    return file


class FakeDistributions:
    """A folder at the front of `sys.path`, and a call that writes a distribution into it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._modules: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        patch.syspath_prepend(str(folder))

    def __call__(
        self,
        name: str,
        source: str,
        *,
        version: str = "1.0",
        entry_points: Mapping[str, str] | str | None = None,
    ) -> Path:
        """See `fake_dist`, and `plugin_source` for a source."""
        file = fake_dist(self.folder, name, version, source, entry_points)
        # A module of that name from an earlier test must not be taken for this one.
        self._modules.add(file.stem)
        self.forget()
        importlib.invalidate_caches()
        return file

    def forget(self) -> None:
        """Take the modules out of this process again."""
        for name in self._modules:
            sys.modules.pop(name, None)

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs to find them."""
        return {"PYTHONPATH": str(self.folder)}
