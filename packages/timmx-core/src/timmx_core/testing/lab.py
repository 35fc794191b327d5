"""A format at work: exports of tiny models, each made once, and ways to make them go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from timmx_core import api
from timmx_core.backend import Artifact, Backend, Context, ExportRequest, LoadedModel, TensorSpec
from timmx_core.errors import CannotRunHere, MissingDependency
from timmx_core.files import manifest as manifests
from timmx_core.files import publishing
from timmx_core.models.inputs import pixels_to_input
from timmx_core.request import options
from timmx_core.results import ExportResult
from timmx_core.testing.plugins import manager_of
from timmx_core.verification.probes import Recipe, make
from timmx_core.verification.worker import Outcome, Worker

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Lab:
    """One format in a private folder. What several tests look at is made once and kept."""

    def __init__(
        self,
        backend: type[Backend],
        others: Sequence[type[Backend]],
        given: Mapping[str, Any],
        folder: Path,
        timeout: float,
    ) -> None:
        self.kind = backend
        self.backend = backend()
        self.others = tuple(other() for other in others)
        self.manager = manager_of(self.backend, *self.others)
        self.given = dict(given)
        self.folder = folder
        self.timeout = timeout
        self._outcomes: dict[str, tuple[Any, Exception | None]] = {}
        self._count = 0

    @property
    def runs_here(self) -> bool:
        """Whether this machine has the runtime."""
        try:
            self.backend.check_run()
        except CannotRunHere:
            return False
        return True

    def require_export(self) -> None:
        """Skip the test where this machine lacks the converter."""
        try:
            self.backend.check_export(None)
        except MissingDependency as error:
            pytest.skip(f"cannot export here: {error}")

    def require_runtime(self) -> None:
        """Skip the test where this machine lacks the runtime."""
        try:
            self.backend.check_run()
        except CannotRunHere as error:
            pytest.skip(f"not verifiable here: {error}")

    def fresh(self, name: str = "folder") -> Path:
        """An empty folder."""
        self._count += 1
        folder = self.folder / f"{name}-{self._count}"
        folder.mkdir()
        return folder

    def export(
        self,
        model: str | torch.nn.Module,
        *,
        folder: Path | None = None,
        backend: Backend | None = None,
        **given: Any,
    ) -> ExportResult:
        """Export into an empty folder.

        :param backend: an instance that was tampered with, in place of the plain one.
        """
        self.require_export()
        manager = self.manager if backend is None else manager_of(backend, *self.others)
        folder = folder or self.fresh("export")
        output = folder / f"model{self.backend.suffixes[0]}"
        if not isinstance(model, str):
            from timmx_core.testing.models import INPUT_SIZE

            given = {"input_size": INPUT_SIZE} | given
        given = self.given | {"verify_timeout": int(self.timeout)} | given
        return api.export(self.backend.name, model, output=output, manager=manager, **given)

    def kept(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives or raises, made once for all tests of the class."""
        if key not in self._outcomes:
            try:
                self._outcomes[key] = (make(), None)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
                self._outcomes[key] = (None, error)
        value, raised = self._outcomes[key]
        if raised is not None:
            raise raised
        return cast("T", value)

    def plain(self) -> ExportResult:
        """The tiny CNN without any option, unverified; no undeclared option may be asked for."""
        from timmx_core.testing.models import tiny_cnn

        def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            declared = replace(request, options=DeclaredOptions(request.options))
            return self.backend.export(model, declared, context)

        backend = self.tampered(export=export)
        return self.kept("plain", lambda: self.export(tiny_cnn(), backend=backend, verify=False))

    def basic(self) -> ExportResult:
        """The tiny CNN without any option, verified."""
        from timmx_core.testing.models import tiny_cnn

        return self.kept("basic", lambda: self.export(tiny_cnn()))

    def at_precision(self, precision: str) -> ExportResult:
        """The tiny CNN at a precision, verified."""
        from timmx_core.testing.models import tiny_cnn

        if precision == self.backend.precisions[0].name:
            return self.basic()
        return self.kept(
            f"basic at {precision}", lambda: self.export(tiny_cnn(), precision=precision)
        )

    def require_plain(self) -> ExportResult:
        """The plain export; the test is skipped where that fails, since its own test says so."""
        self.require_export()
        try:
            return self.plain()
        except Exception as error:  # noqa: BLE001 - told by the plain export's own test
            pytest.skip(f"the plain export fails already: {error}")

    def require_basic(self) -> None:
        """Skip the test where the plain export is not verified, since its own test says so."""
        try:
            self.check(self.basic())
        except Exception as error:  # noqa: BLE001 - told by the round trip's own test
            pytest.skip(f"the plain round trip fails already: {error}")

    def check(self, result: ExportResult) -> None:
        """Assert that a verified export got the verdict that this machine allows."""
        expected = "verified" if self.runs_here else "not verifiable here"
        assert result.verdict.status == expected, result.verdict.reason
        assert all(m.status == "passed" for m in result.verdict.measurements)

    def run(self, path: Path, specs: Sequence[TensorSpec], batch: int) -> Outcome:
        """All probes through the file in another process, as the verification does it."""
        port = specs[0]
        pixels = make(_recipe(port))
        with Worker(self.backend) as worker:
            return worker.run(
                path,
                {port.name: pixels_to_input(pixels, port)},
                (batch,),
                options.run_options(self.backend, {}),
                self.fresh("arrays") / "job",
                self.timeout,
            )

    def files(self, model: torch.nn.Module, **given: Any) -> list[Path]:
        """The primary, then the companions, as the converter left them: without a manifest."""
        kept = self.fresh("raw")
        paths: list[Path] = []

        def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            artifact = self.backend.export(model, request, context)
            left = (artifact.primary, *artifact.companions)
            paths.extend(copy(path, kept / path.name) for path in left)
            return artifact

        self.export(model, backend=self.tampered(export=export), verify=False, **given)
        return paths

    def tampered(self, **methods: Callable[..., Any]) -> Backend:
        """A new instance with some methods replaced; its file is opened by the plain class."""
        backend = self.kind()
        for name, method in methods.items():
            setattr(backend, name, method)
        return backend

    def exchanged(self, files: Sequence[Path]) -> Backend:
        """An instance whose converter leaves these files in place of what it made."""

        def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            artifact = self.backend.export(model, request, context)
            for path in (artifact.primary, *artifact.companions):
                remove(path)
            primary, *companions = (copy(f, context.staging / f.name) for f in files)
            return replace(artifact, primary=primary, companions=tuple(companions))

        return self.tampered(export=export)

    def process(self, program: str, *arguments: str) -> tuple[str, Any]:
        """Run Python in a fresh process with this one's import path.

        :param program: what it gives to `report`, if it does, comes back.
        :return: what it printed, and what it reported. These go apart: libraries print at exit.
        :raises AssertionError: it failed, or a library ended it on its way.
        """
        folder = self.fresh("process")
        facts = json.dumps({"path": sys.path, "folder": str(folder)})
        done = subprocess.run(
            [sys.executable, "-I", "-c", PRELUDE + program, facts, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=self.timeout,
        )
        # A signal leaves nothing on stderr: a library that crashes while Python ends, for instance.
        told = done.stderr[-2000:] or f"its process ended with exit code {done.returncode}"
        assert done.returncode == 0, told
        assert (folder / "ended").exists(), (
            "something ends the process by os._exit(), with an exit code that is not its own"
        )
        reported = folder / "report.json"
        return done.stdout, json.loads(reported.read_bytes()) if reported.exists() else None


class DeclaredOptions(dict[str, Any]):
    """Options of a request, of which none is asked for that is not there."""

    def get(self, key: str, default: Any = None) -> Any:
        """What was given.

        :raises AssertionError: the format does not declare it, and the default is all it ever has.
        """
        assert key in self, f"it reads an option {key!r} that it does not declare"
        return self[key]


# What is registered first is called last at exit, if Python gets there.
PRELUDE = """
import atexit, json, sys
from pathlib import Path
facts = json.loads(sys.argv[1])
sys.path[:] = facts["path"]
atexit.register((Path(facts["folder"]) / "ended").touch)
def report(value):
    (Path(facts["folder"]) / "report.json").write_text(json.dumps(value), encoding="utf-8")
"""


def _recipe(port: TensorSpec) -> Recipe:
    sizes = [d if isinstance(d, int) else d[1] for d in port.shape]
    if port.layout == "NHWC":
        return Recipe(sizes[1], sizes[2], sizes[3])
    return Recipe(sizes[2], sizes[3], sizes[1])


def copy(source: Path, target: Path) -> Path:
    """A file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def remove(path: Path) -> None:
    """A file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def ports(result: ExportResult, side: str) -> list[TensorSpec]:
    """The "inputs" or "outputs" that the manifest declares."""
    return [manifests.spec_from_json(spec) for spec in result.manifest[side]]


def members(result: ExportResult) -> list[str]:
    """What has been published beside the record, as names in the target's folder."""
    assert result.path is not None
    names = [result.path.name, publishing.record_path(result.path).name]
    return sorted([*names, *(c.name for c in result.companions)])
