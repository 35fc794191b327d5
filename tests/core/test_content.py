"""A file whose weights were changed after the export: found, and measured all the same."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faulty_formats import NotRunning
from pocket_format import MANIFEST, WEIGHTS, PocketBackend

from timmx_core import api
from timmx_core.backend import Backend
from timmx_core.errors import ArtifactError, RequestError
from timmx_core.files.inspection import CHANGED
from timmx_core.files.publishing import record_path
from timmx_core.results import ExportResult
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_core.toolkit.content import ContentDigest

POCKET = PocketBackend()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """In fp16, whose floor leaves much room."""
    target = tmp_path_factory.mktemp("original") / "model.pocket"
    given = {"output": str(target), "input_size": INPUT_SIZE, "precision": "fp16", "verify": False}
    return api.export("pocket", tiny_cnn(), manager=manager_of(POCKET), **given)


@pytest.fixture
def path(original: ExportResult, tmp_path: Path) -> Path:
    """A copy whose weights are 0.5 % greater, with its manifest and without its record."""
    assert original.path is not None
    return changed(original.path, tmp_path / "model.pocket", 1.005)


def changed(source: Path, target: Path, factor: float) -> Path:
    """A copy with other weights of the last layer."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == WEIGHTS:
                arrays = dict(np.load(io.BytesIO(data)))
                last = next(k for k in arrays if "head" in k and "weight" in k)
                arrays[last] = (arrays[last] * factor).astype(arrays[last].dtype)
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)
                data = buffer.getvalue()
            new.writestr(name, data)
    return target


def with_record(original: ExportResult, path: Path) -> Path:
    record_path(path).write_text(json.dumps(dict(original.record)))
    return path


def test_without_its_record(path: Path) -> None:
    inspection = api.inspect(path, manager=manager_of(POCKET))
    assert inspection.problems == (CHANGED,)
    assert inspection.intact is False
    verdict = api.verify(path, manager=manager_of(POCKET))
    worst = verdict.worst
    assert verdict.status == "failed"
    assert worst is not None
    assert worst.status == "passed", "above its floor: nothing else would have told"
    standing = f"it now stands at {worst.snr_db:.1f} dB (floor 30 dB)"
    assert verdict.reason == f"{CHANGED}; {standing}"


def test_with_its_record(original: ExportResult, path: Path) -> None:
    verdict = api.verify(with_record(original, path), manager=manager_of(POCKET))
    told = f"model.pocket is not the file that was exported; {CHANGED}; it now stands at "
    assert verdict.status == "failed"
    assert verdict.reason.startswith(told)


def test_below_its_floor(original: ExportResult, tmp_path: Path) -> None:
    assert original.path is not None
    path = changed(original.path, tmp_path / "model.pocket", 3.0)
    verdict = api.verify(path, manager=manager_of(POCKET))
    assert verdict.status == "failed"
    assert verdict.reason.startswith(f"{CHANGED}; ")
    assert verdict.reason.endswith("dB, below 30 dB")


def test_a_remark_of_others(original: ExportResult, path: Path) -> None:
    """Bytes that compute nothing: fine without the record, which knows every byte."""
    assert original.path is not None
    shutil.copyfile(original.path, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"mine"
    assert api.inspect(path, manager=manager_of(POCKET)).problems == ()
    assert api.verify(path, manager=manager_of(POCKET)).status == "verified"
    verdict = api.verify(with_record(original, path), manager=manager_of(POCKET))
    assert verdict.status == "failed"
    assert verdict.reason.startswith("model.pocket is not the file that was exported; it now ")


def test_where_it_cannot_be_run(path: Path) -> None:
    verdict = api.verify(path, manager=manager_of(NotRunning()))
    assert verdict.status == "failed"
    assert verdict.reason.startswith(f"{CHANGED}; it is not verifiable here: no runtime")


def test_where_it_cannot_be_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"NUMPY") + 64] ^= 1  # the archive's checksum of the weights is now wrong
    path.write_bytes(data)
    (problem,) = api.inspect(path, manager=manager_of(POCKET)).problems
    assert problem.startswith("what the file computes cannot be read: model.pocket")
    assert api.verify(path, manager=manager_of(POCKET)).status == "failed"


def test_it_vouches_for_no_other_file(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.pocket"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in set(old.namelist()) - {MANIFEST}:
            new.writestr(name, old.read(name))
    with pytest.raises(RequestError, match=CHANGED):
        api.verify(made, built_from=path, manager=manager_of(POCKET))


def test_files_of_older_versions_have_nothing_to_compare(
    original: ExportResult, tmp_path: Path
) -> None:
    class WithoutDigest(PocketBackend):
        def content_digest(self, path: Path) -> str | None:
            return None

    older: Backend = WithoutDigest()
    assert original.path is not None
    path = changed(original.path, tmp_path / "model.pocket", 1.005)
    inspection = api.inspect(path, manager=manager_of(older))
    assert (inspection.intact, inspection.problems) == (None, ())


def digest_of(*parts: tuple[str, bytes]) -> str:
    digest = ContentDigest()
    for name, data in parts:
        digest.add(name, data)
    return digest.hexdigest()


def test_bytes_that_move_between_parts_are_told() -> None:
    assert digest_of(("a", b"12"), ("b", b"3")) != digest_of(("a", b"1"), ("b", b"23"))
    assert digest_of(("a", b"1")) != digest_of(("b", b"1"))
    assert digest_of(("a 1", b"")) != digest_of(("a", b"1"))


def test_an_archive_is_what_it_holds(tmp_path: Path) -> None:
    """Neither order, time nor compression tell; names and bytes do."""

    def made(compression: int, *members: tuple[str, bytes]) -> str:
        path = tmp_path / "archive.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members:
                archive.writestr(name, data)
        digest = ContentDigest()
        digest.add_archive(path, without={"m/manifest"}, root="m/")
        return digest.hexdigest()

    stored = made(zipfile.ZIP_STORED, ("m/a", b"1"), ("m/b", b"2"))
    same = made(zipfile.ZIP_DEFLATED, ("m/b", b"2"), ("m/manifest", b"x"), ("m/a", b"1"))
    assert stored == same
    assert stored != made(zipfile.ZIP_STORED, ("m/a", b"2"), ("m/b", b"1"))


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(9):
            archive.writestr(f"{index}", bytes(8 << 20))
    with pytest.raises(ArtifactError, match="unpacks to"):
        ContentDigest().add_archive(path)
