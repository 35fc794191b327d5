"""The file as a thing on disk: its manifest, its bytes, its neighbours, and hostile ones."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from timmx_core import api
from timmx_core.backend import Artifact, Context, ExportRequest, LoadedModel
from timmx_core.errors import ArtifactError, TimmxError
from timmx_core.files import manifest as manifests
from timmx_core.files.inspection import CHANGED
from timmx_core.files.publishing import files_of, record_path
from timmx_core.results import ExportResult
from timmx_core.testing.case import Case
from timmx_core.testing.descriptions import FIND, REPORT, at_import, heavy
from timmx_core.testing.lab import Lab, copy, members, ports
from timmx_core.testing.watching import Watch

READ_SECONDS = 5.0  # for a file of a few hundred KB, on a loaded machine
READ = (
    FIND + "backend.read(Path(sys.argv[4]))\nbackend.content_digest(Path(sys.argv[4]))\n" + REPORT
)
AGAIN = """
import importlib
from pathlib import Path
from timmx_core.testing.lab import Lab
from timmx_core.files.publishing import member_digests

def find(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found

kinds = [find(*pair) for pair in json.loads(sys.argv[2])]
folder = Path(sys.argv[3])
lab = Lab(kinds[0], kinds[1:], json.loads(sys.argv[4]), folder, float(sys.argv[5]))
report(dict(lab.plain().record["members"]))
"""
FOREIGN = {
    "empty": b"",
    "text": b"not a model at all\n",
    "json": b'{"format": "something else"}',
    "zip": b"PK\x03\x04" + bytes(60),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "protobuf": b"\x08\x0a\x12\x07unknown" * 20,
    "xml": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'b'>]><a>&b;</a>",
}


class FileTests(Case):
    """What lies in the target's folder after an export."""

    def test_the_manifest_is_embedded_and_read_back(self, lab: Lab) -> None:
        """What `embed` says is in the file is what `read` finds there, byte for byte."""
        lab.require_plain()
        given: list[bytes] = []
        said: list[bool] = []

        def embed(artifact: Artifact, manifest: bytes) -> bool:
            given.append(manifest)
            said.append(lab.backend.embed(artifact, manifest))
            return said[0]

        from timmx_core.testing.models import tiny_cnn

        result = lab.export(tiny_cnn(), backend=lab.tampered(embed=embed), verify=False)
        assert result.path is not None
        assert lab.backend.read(result.path) == (given[0] if said[0] else None)
        inspection = api.inspect(result.path, manager=lab.manager)
        assert inspection.embedded == said[0]
        assert inspection.intact, inspection.problems

    def test_what_it_computes_has_a_digest(self, lab: Lab) -> None:
        """`content_digest` of the file, by any name, is the one in its manifest."""
        result = lab.require_plain()
        assert result.path is not None
        wanted = result.manifest["content_sha256"]
        if lab.backend.read(result.path) is not None:
            assert wanted is not None, (
                "a weight that is changed later would hardly be found: implement "
                "Backend.content_digest with timmx_core.toolkit.content"
            )
        primary, *companions = (result.path, *result.companions)
        moved = copy(primary, lab.fresh("moved") / f"renamed{primary.suffix}")
        for path in companions:
            follows = path.suffix in lab.backend.companion_suffixes and path.stem == primary.stem
            copy(path, moved.with_suffix(path.suffix) if follows else moved.with_name(path.name))
        assert lab.backend.content_digest(moved) == wanted

    def test_changed_weights_are_found(self, lab: Lab, precision: str) -> None:
        """Weights that are 2 % greater under the first file's manifest, with no record beside."""
        from timmx_core.testing.models import nearly, tiny_cnn

        if precision in self.skip_precisions:
            pytest.skip(self.skip_precisions[precision])
        if lab.require_plain().manifest["content_sha256"] is None:
            pytest.skip("the format gives no digest of what it computes")
        try:
            result = lab.at_precision(precision)
        except TimmxError as error:
            pytest.skip(f"the round trip fails already: {error}")
        changed = self._exchanged(lab, result, lab.files(nearly(tiny_cnn()), precision=precision))
        inspection = api.inspect(changed, manager=lab.manager)
        assert CHANGED in inspection.problems
        assert inspection.intact is False

    def _exchanged(self, lab: Lab, result: ExportResult, files: Sequence[Path]) -> Path:
        """Other files under the manifest of an export, without its record."""
        folder = lab.fresh("exchanged")
        primary, *companions = files
        wrong = Artifact(
            copy(primary, folder / primary.name),
            tuple(ports(result, "inputs")),
            tuple(ports(result, "outputs")),
            tuple(copy(c, folder / c.name) for c in companions),
        )
        manifest = manifests.dump(result.manifest)
        if not lab.backend.embed(wrong, manifest) or lab.backend.read(wrong.primary) is None:
            pytest.skip("the file holds no manifest; the record beside it tells of changes")
        return wrong.primary

    def test_reading_needs_no_converter(self, lab: Lab) -> None:
        """`read` and `content_digest` in a fresh process import nothing heavy.

        Inspecting a file is quick and safe.
        """
        result = lab.require_plain()
        assert not heavy(lab, READ, str(result.path)) - at_import(lab)

    @pytest.mark.parametrize("kind", sorted(FOREIGN))
    def test_foreign_files_are_not_taken_for_its_own(self, lab: Lab, kind: str) -> None:
        """`read` gives None for another format's file; under its own suffix ArtifactError, too."""
        folder = lab.fresh("foreign")
        for suffix in (".other", *lab.backend.suffixes):
            path = folder / f"file{suffix}"
            path.write_bytes(FOREIGN[kind])
            assert read_in_time(lab, path) is None
            digest_in_time(lab, path)
        assert lab.backend.read(folder / "missing.other") is None
        assert lab.backend.read(folder) is None, "a folder of no kind"

    def test_truncated_files_end_in_an_error(self, lab: Lab) -> None:
        """Cut anywhere, a file reads as ArtifactError or None, in time, or as a whole manifest."""
        result = lab.require_plain()
        assert result.path is not None
        whole = lab.backend.read(result.path)
        folder = lab.fresh("truncated")
        for index, member in enumerate(files_of(result.path)):
            size = member.stat().st_size
            for length in sorted({0, 1, 7, size // 3, size // 2, size * 9 // 10, size - 1}):
                cut = copy(result.path, folder / f"{index}-{length}{result.path.suffix}")
                target = cut / member.relative_to(result.path) if cut.is_dir() else cut
                target.write_bytes(member.read_bytes()[: max(length, 0)])
                assert read_in_time(lab, cut) in (None, whole)
                digest_in_time(lab, cut)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
    def test_a_pipe_is_not_waited_for(self, lab: Lab) -> None:
        """A pipe in the place of a companion, or of a file in a folder, is an error at once."""
        result = lab.require_plain()
        assert result.path is not None
        parts = [path for path in files_of(result.path) if path != result.path]
        parts += [file for companion in result.companions for file in files_of(companion)]
        for part in parts:
            folder = lab.fresh("pipes")
            for path in (result.path, *result.companions):
                copy(path, folder / path.name)
            pipe = folder / part.relative_to(result.path.parent)
            pipe.unlink()
            os.mkfifo(pipe)
            with _writer_later(pipe):
                read_in_time(lab, folder / result.path.name)
                digest_in_time(lab, folder / result.path.name)

    def test_results_are_json(self, lab: Lab) -> None:
        """Manifest and record fit the published schema, and the result is what --json prints."""
        result = lab.require_plain()
        assert result.path is not None
        manifests.validate(json.loads(json.dumps(result.manifest)), "manifest")
        record = json.loads(record_path(result.path).read_bytes())
        manifests.validate(record, "record")
        assert json.loads(json.dumps(result.to_json()))["path"] == str(result.path)
        assert result.manifest["format"] == lab.backend.name
        assert result.manifest["report"] == json.loads(json.dumps(dict(result.manifest["report"])))

    def test_the_same_request_gives_the_same_bytes(self, lab: Lab) -> None:
        """Exported again by another process, with other hash seeds, every member is the same."""
        result = lab.require_plain()
        kinds = [
            (kind.__module__, kind.__qualname__) for kind in (lab.kind, *map(type, lab.others))
        ]
        again = self._again(lab, kinds, "again")  # which must end well in any case
        if not self.deterministic:
            pytest.skip("declared not to be deterministic")
        if again != dict(result.record["members"]):
            # What a process has exported before may show (counters of names): two fresh ones.
            assert self._again(lab, kinds, "and-again") == again, (
                "other bytes: times in an archive, or the order of a set? Or: deterministic = False"
            )

    def _again(self, lab: Lab, kinds: list[tuple[str, str]], name: str) -> Any:
        """Digests of the files that another process makes."""
        _, digests = lab.process(
            AGAIN,
            json.dumps(kinds),
            str(lab.fresh(name)),
            json.dumps(lab.given),
            str(lab.timeout),
        )
        return digests

    def test_it_writes_in_its_staging_folder_only(
        self, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Working folder, home, temporary folder and target hold nothing but what was published."""
        from timmx_core.testing.models import tiny_cnn

        lab.require_plain()
        watch = Watch(tmp_path, monkeypatch, self.libraries_write)
        target = lab.fresh("target")
        beside: list[str] = []

        def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            artifact = lab.backend.export(model, request, context)
            assert context.staging.parent == target
            beside.extend(p.name for p in target.iterdir() if p != context.staging)
            return artifact

        result = lab.export(
            tiny_cnn(),
            folder=target,
            backend=lab.tampered(export=export),
            verify=lab.runs_here and not basic_fails(lab),
        )
        assert not beside, f"it wrote {beside[0]} beside its staging folder"
        assert sorted(p.name for p in target.iterdir()) == members(result)
        changes = watch.changes()
        assert not changes, f"it wrote outside its staging folder: {', '.join(changes)}"

    def test_it_verifies_later_from_the_file_alone(self, lab: Lab) -> None:
        """`timmx verify FILE` on a published file comes to the verdict of the export."""
        lab.require_export()
        lab.require_plain()
        lab.require_basic()
        result = lab.basic()
        assert result.path is not None
        verdict = api.verify(result.path, manager=lab.manager, timeout=lab.timeout)
        assert verdict.status == result.verdict.status, verdict.reason
        left = sorted(path.name for path in result.path.parent.iterdir())
        assert left == members(result), "reading or running a file leaves nothing beside it"

    def test_a_file_exchanged_later_fails(self, lab: Lab) -> None:
        """Another model's file under this manifest is found out by `timmx verify` as well."""
        from timmx_core.testing.models import tiny_cnn

        lab.require_plain()
        lab.require_basic()
        lab.require_runtime()
        changed = self._exchanged(lab, lab.basic(), lab.files(tiny_cnn(seed=1)))
        verdict = api.verify(changed, manager=lab.manager, timeout=lab.timeout)
        assert verdict.status == "failed"
        assert verdict.measurements, f"how wrong it is was not measured: {verdict.reason}"


def basic_fails(lab: Lab) -> bool:
    """Whether the plain round trip fails; the test for it says why."""
    try:
        lab.check(lab.basic())
    except (Exception, AssertionError):  # noqa: BLE001
        return True
    return False


@contextlib.contextmanager
def _writer_later(pipe: Path) -> Iterator[None]:
    """Let who waits for a pipe go on, when it is too late."""

    def write() -> None:
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(READ_SECONDS + 1, write)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def digest_in_time(lab: Lab, path: Path) -> None:
    """`content_digest` of a broken file: some digest, None or an ArtifactError.

    :raises AssertionError: it takes too long.
    """
    start = time.monotonic()
    with contextlib.suppress(ArtifactError):
        lab.backend.content_digest(path)
    assert time.monotonic() - start < READ_SECONDS


def read_in_time(lab: Lab, path: Path) -> bytes | None:
    """What `read` makes of a file; None for an ArtifactError under the format's own suffix.

    :raises AssertionError: it takes too long.
    """
    start = time.monotonic()
    try:
        found = lab.backend.read(path)
    except ArtifactError:
        assert path.suffix in lab.backend.suffixes, f"{path.name} is not of this format: give None"
        found = None
    assert time.monotonic() - start < READ_SECONDS
    return found
