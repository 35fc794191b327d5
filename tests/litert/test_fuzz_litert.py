"""LiteRT files of any kind: a manifest is read from them, or they are refused, in no time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from fuzzing import damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from timmx_core.errors import ArtifactError
from timmx_litert import container
from timmx_litert.backend import LiteRTBackend

MANIFEST = b'{"a": 1, "labels": ["cat", "dog"]}'


def a_model(*names: str) -> bytes:
    """A flatbuffer that holds nothing but entries of metadata."""
    model = schema.ModelT()
    model.version, model.buffers, model.metadata = 3, [schema.BufferT()], []
    for name in names:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name.encode(), 0
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), container.IDENTIFIER)
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "good.tflite"
    path.write_bytes(a_model("min_runtime_version", container.MARK))
    container.add_files(path, MANIFEST)
    return path


def test_an_archive_is_replaced_and_not_doubled(good: Path) -> None:
    before = good.read_bytes()
    assert container.read_manifest(good) == MANIFEST
    container.add_files(good, MANIFEST)
    assert good.read_bytes() == before


def test_labels_are_those_of_the_manifest(good: Path) -> None:
    """They lie behind the model, where other programs look for them."""
    path = good.with_name("labelled.tflite")
    path.write_bytes(a_model("min_runtime_version", container.MARK))
    assert LiteRTBackend().content_digest(path) == LiteRTBackend().content_digest(good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(container.MANIFEST, MANIFEST)
        archive.writestr(container.LABELS, "dog\ncat\n")
    with pytest.raises(ArtifactError, match="the labels of the manifest"):
        LiteRTBackend().content_digest(path)


def test_a_file_of_others_has_no_manifest(tmp_path: Path) -> None:
    """Also where an archive with such a file follows, which nobody has announced."""
    path = tmp_path / "other.tflite"
    path.write_bytes(a_model("TFLITE_METADATA"))
    assert LiteRTBackend().read(path) is None
    container.add_files(path, MANIFEST)
    assert LiteRTBackend().read(path) is None


@fuzz(300)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(good: Path, data: st.DataObject) -> None:
    path = good.with_name("damaged.tflite")
    path.write_bytes(data.draw(damaged(good.read_bytes())))
    try:
        LiteRTBackend().read(path)
        LiteRTBackend().content_digest(path)
    except ArtifactError as error:
        assert "\n" not in error.message  # noqa: PT017 (either is right)
