"""Copies of the pocket format, each of which breaks the contract in one way."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocket_format import MANIFEST, WEIGHTS, PocketBackend, PocketRunner

from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel, Option, Runner
from timmx_core.errors import CannotRunHere, MissingDependency
from timmx_core.files.publishing import sha256
from timmx_core.toolkit.content import ContentDigest

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]


class FaultyRunner(PocketRunner):
    """The pocket runner with its answers spoiled."""

    def run(self, inputs: Arrays) -> Arrays:
        return {name: self.spoil(array) for name, array in super().run(inputs).items()}

    def spoil(self, array: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class NotExporting(PocketBackend):
    """For faults that show before an export, to spare the exports."""

    def check_export(self, request: ExportRequest | None) -> None:
        if request is None:
            raise MissingDependency("no converter, for the sake of speed")


class NotRunning(PocketBackend):
    """For faults that show without the runtime, to spare the verifications."""

    def check_run(self) -> None:
        raise CannotRunHere("no runtime, for the sake of speed")

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        raise CannotRunHere("no runtime, for the sake of speed")


class HeavyCheck(NotExporting):
    """Imports its runtime to find out whether it is there."""

    def check_run(self) -> None:
        import numpy as np  # noqa: F401


class HeavyRead(NotRunning):
    """Needs its runtime to read a manifest."""

    def read(self, path: Path) -> bytes | None:
        import numpy as np  # noqa: F401

        return super().read(path)


class PrintsInRead(NotRunning):
    """Greets whoever reads a manifest."""

    def read(self, path: Path) -> bytes | None:
        print("pocket says hello")
        return super().read(path)


class CrashesAtExit(NotExporting):
    """Looks for its runtime by means of a library that does not survive the end of Python."""

    def check_run(self) -> None:
        if "pytest" not in sys.modules:  # or the tests' own process would not survive it
            atexit.register(os.abort)


class CollidingOption(NotExporting):
    """Takes an option of core for itself."""

    options = (*PocketBackend.options, Option("verify", "bool", "Check.", False))


class NotRefusing(NotRunning):
    """Lets through what it cannot do."""

    def check_export(self, request: ExportRequest | None) -> None:
        pass


class OddReport(PocketBackend):
    """Reports what JSON cannot hold."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        return replace(artifact, report={"file": artifact.primary})


class UndeclaredOption(PocketBackend):
    """Asks for an option that it does not offer."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        assert request.options["effort"]
        return super().export(model, request, context)


class UndeclaredGet(PocketBackend):
    """Has a default for an option that nobody can give."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        assert request.options.get("effort", 1)
        return super().export(model, request, context)


class OldSignature(NotExporting):
    """Opens files as if run options had not been invented."""

    def open(self, path: Path) -> Runner:  # type: ignore[override]
        return PocketRunner(path)


class LeftWhileConverting(NotRunning):
    """Begins in the working folder, and cleans up only where all goes well."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        part = Path("pocket.part")
        part.touch()
        with context.stage("begin"):
            (context.staging / "begun").touch()
        (context.staging / "begun").unlink()
        part.unlink()
        return super().export(model, request, context)


class UnquotedNames(NotRunning):
    """Puts a file's own text into source as it stands."""

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        return super().snippet(manifest) + f"one = dict({manifest['inputs'][0]['name']}=x)\n"


class PartialFile(PocketBackend):
    """Names a companion that it did not write."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        return replace(artifact, companions=(artifact.primary.with_suffix(".weights"),))


class WrongSuffix(NotExporting):
    """Forgets the dot."""

    suffixes = ("pocket",)


class ClashingName(NotExporting):
    """Takes a word of the command line for its name."""

    name = "verify"


class WritesElsewhere(NotRunning):
    """Leaves a cache in the temporary folder."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        (Path(tempfile.gettempdir()) / "pocket.cache").write_text("left")
        return super().export(model, request, context)


class LeavesALimit(NotRunning):
    """Lets Python recurse deeper, and leaves it at that."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)
        return super().export(model, request, context)


class WritesBesideTarget(NotRunning):
    """Works in the target's folder, and tidies up when all went well."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        (context.staging.parent / "half.tmp").write_text("left")
        return super().export(model, request, context)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        (artifact.primary.parent.parent / "half.tmp").unlink()
        return super().embed(artifact, manifest)


class IgnoresPrecision(PocketBackend):
    """Writes float32 whatever was asked."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        return super().export(model, replace(request, precision=self.precisions[0]), context)


class RoughPrecision(PocketBackend):
    """Calls a file fp16 whose weights have three bits of mantissa left."""

    class RoughRunner(PocketRunner):
        def __init__(self, path: Path) -> None:
            import numpy as np

            super().__init__(path)
            with zipfile.ZipFile(path) as archive:
                rough = b'"name": "fp16"' in archive.read(MANIFEST)
            for name, array in self.weights.items() if rough else ():
                mantissa, exponent = np.frexp(array)
                self.weights[name] = np.ldexp(np.round(mantissa * 8) / 8, exponent)

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.RoughRunner(path)


class WrongNames(PocketBackend):
    """Gives its output under a name of its own."""

    class NamingRunner(PocketRunner):
        def run(self, inputs: Arrays) -> Arrays:
            return {f"graph_{name}": array for name, array in super().run(inputs).items()}

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.NamingRunner(path)


class WrongDtype(PocketBackend):
    """Declares float32 and gives float64."""

    class DoubleRunner(FaultyRunner):
        def spoil(self, array: np.ndarray) -> np.ndarray:
            return array.astype("float64")

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.DoubleRunner(path)


class SwallowsBatch(PocketBackend):
    """Answers for the first image of a batch, whatever the others are."""

    class FirstRunner(FaultyRunner):
        def spoil(self, array: np.ndarray) -> np.ndarray:
            return array[[0] * len(array)]

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.FirstRunner(path)


class ConstantOutput(PocketBackend):
    """Ignores its input."""

    class ConstantRunner(FaultyRunner):
        def spoil(self, array: np.ndarray) -> np.ndarray:
            return array * 0 + 1

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.ConstantRunner(path)


class NotANumber(PocketBackend):
    """Gives NaN."""

    class NaNRunner(FaultyRunner):
        def spoil(self, array: np.ndarray) -> np.ndarray:
            return array * float("nan")

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return self.NaNRunner(path)


class ForgetsSoftmax(PocketBackend):
    """Says that it puts the softmax into the file, and does not."""

    absorbs = frozenset({"softmax"})


class NotEmbedding(PocketBackend):
    """Says that the manifest is in the file."""

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        return True


class NoDigest(NotRunning):
    """Has a manifest in the file, and nothing that tells of weights which are changed later."""

    def content_digest(self, path: Path) -> str | None:
        return None


class DigestOfAll(NotRunning):
    """Counts the manifest in."""

    def content_digest(self, path: Path) -> str | None:
        return sha256(path)


class DigestOfGraph(NotRunning):
    """Leaves the weights out."""

    def content_digest(self, path: Path) -> str | None:
        digest = ContentDigest()
        digest.add_archive(path, without={MANIFEST, WEIGHTS})
        return digest.hexdigest()


class RaisesOnForeign(NotRunning):
    """Lets its library's exceptions out of `read`."""

    def read(self, path: Path) -> bytes | None:
        with zipfile.ZipFile(path) as archive:
            return archive.read(MANIFEST) if MANIFEST in archive.namelist() else None


class Random(NotRunning):
    """Declared to be deterministic."""

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        artifact = super().export(model, request, context)
        with zipfile.ZipFile(artifact.primary, "a") as archive:
            archive.writestr(zipfile.ZipInfo("id"), os.urandom(16))
        return artifact


class PoorRunner(FaultyRunner):
    """Each value wrong by a thousandth."""

    def spoil(self, array: np.ndarray) -> np.ndarray:
        result: np.ndarray = array * array.dtype.type(1.001)
        return result


class PoorRounding(PocketBackend):
    """Its runtime is as poor as some are with weights that are hard on them."""

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        return PoorRunner(path)
