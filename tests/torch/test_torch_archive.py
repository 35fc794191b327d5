"""Reading torch's archives without torch, whoever wrote them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timmx_core.errors import ArtifactError
from timmx_torch import archive
from timmx_torch.archive import BadArchive
from timmx_torch.backend import TorchExportBackend, TorchScriptBackend


def a_program(path: Path) -> Path:
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    with path.open("wb") as file:
        torch.export.save(program, file)
    return path


def a_script(path: Path) -> Path:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), path)
    return path


def test_an_extra_file_is_appended_and_torch_still_loads_the_rest(tmp_path: Path) -> None:
    path = a_program(tmp_path / "a.pt2")
    archive.add_extra(path, "timmx.json", b'{"a": 1}')
    assert TorchExportBackend().read(path) == b'{"a": 1}'
    extra = {"timmx.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert extra["timmx.json"] == '{"a": 1}'
    assert program.module()(torch.ones(1, 3)).shape == (1, 2)

    path = a_script(tmp_path / "a.pt")
    archive.add_extra(path, "timmx.json", b'{"b": 2}')
    assert TorchScriptBackend().read(path) == b'{"b": 2}'
    extra = {"timmx.json": ""}
    module = torch.jit.load(path, _extra_files=extra)
    assert extra["timmx.json"] == b'{"b": 2}'
    assert module(torch.ones(1, 3)).shape == (1, 2)


def test_an_extra_file_is_not_written_twice(tmp_path: Path) -> None:
    path = a_program(tmp_path / "a.pt2")
    archive.add_extra(path, "timmx.json", b"{}")
    with pytest.raises(BadArchive, match="already"):
        archive.add_extra(path, "timmx.json", b"{}")


def test_a_file_is_told_by_what_it_holds(tmp_path: Path) -> None:
    program = a_program(tmp_path / "a.pt")
    archive.add_extra(program, "timmx.json", b"{}")
    assert TorchScriptBackend().read(program) is None
    script = a_script(tmp_path / "b.pt2")
    archive.add_extra(script, "timmx.json", b"{}")
    assert TorchExportBackend().read(script) is None
    torch.save({"weight": torch.ones(1)}, tmp_path / "checkpoint.pt")
    assert TorchScriptBackend().read(tmp_path / "checkpoint.pt") is None


def test_reading_the_manifest_imports_no_torch(tmp_path: Path) -> None:
    path = a_program(tmp_path / "a.pt2")
    archive.add_extra(path, "timmx.json", b"{}")
    code = (
        "import sys; from pathlib import Path; from timmx_torch.backend import TorchExportBackend; "
        f"assert TorchExportBackend().read(Path({str(path)!r})) == b'{{}}'; "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    for content in (b"", b"PK\x05\x06", b"not a zip file", b"PK\x05\x06" + b"\xff" * 18):
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            TorchExportBackend().read(path)
        assert TorchScriptBackend().read(path) is None


def test_a_manifest_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_EXTRA", 100)
    path = a_program(tmp_path / "a.pt2")
    archive.add_extra(path, "timmx.json", b" " * 101)
    with pytest.raises(ArtifactError, match="100 are allowed"):
        TorchExportBackend().read(path)


def test_a_compressed_manifest_unpacks_no_further_than_the_limit(tmp_path: Path) -> None:
    path = a_program(tmp_path / "a.pt2")
    root = zipfile.ZipFile(path).namelist()[0].partition("/")[0]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{root}/extra/timmx.json", bytes(archive.MAX_EXTRA + 1))
    assert path.stat().st_size < archive.MAX_EXTRA
    with pytest.raises(ArtifactError, match="are allowed"):
        TorchExportBackend().read(path)


def test_a_large_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_DIRECTORY", 100)
    path = a_program(tmp_path / "a.pt2")
    with pytest.raises(ArtifactError, match="a directory of"):
        TorchExportBackend().read(path)


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=8), st.booleans())
def test_a_damaged_archive_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, junk: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "good.pt2"
    if not path.exists():
        archive.add_extra(a_program(path), "timmx.json", b'{"a": 1}')
    data = path.read_bytes()
    # The directory is at the end, and worth most.
    position = len(data) - 1 - position % min(len(data), 4000)
    damaged = path.with_name("damaged.pt2")
    damaged.write_bytes(data[:position] + junk + (b"" if cut else data[position + len(junk) :]))
    try:
        TorchExportBackend().read(damaged)
    except ArtifactError:
        return
