"""Programs as files: what is read of them, and what is made of broken and hostile ones."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import timmx_core
from timmx_core.errors import ArtifactError
from timmx_core.files.publishing import record_path
from timmx_executorch import program
from timmx_executorch.backend import ExecutorchBackend
from timmx_executorch.program import BadProgramError

BACKEND = ExecutorchBackend()
TIMMX = Path(sys.executable).with_name("timmx")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small program, verified."""
    result = timmx_core.export(
        "executorch",
        "test_resnet",
        input_size=(3, 64, 64),
        num_classes=10,
        output=str(tmp_path_factory.mktemp("good") / "good.pte"),
    )
    assert result.verdict.status == "verified"
    assert result.path is not None
    return result.path


@pytest.fixture
def file(good: Path, tmp_path: Path) -> Path:
    """A copy of it, with its record."""
    for path in (good, record_path(good)):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / good.name


def changed(path: Path, position: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)
    return path


def test_the_manifest_is_named_data_of_the_program(file: Path) -> None:
    """As ExecuTorch itself reads the file, and so as a phone would find it."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    found = deserialize_pte_binary(file.read_bytes())
    assert found.named_data is not None
    entry = found.named_data.pte_data["timmx"]
    stored = bytes(found.named_data.buffers[entry.buffer_index])
    assert stored == BACKEND.read(file)
    assert json.loads(stored)["format"] == "executorch"
    header = program.read_header(file)
    assert header.delegates == ("XnnpackBackend",)
    assert set(header.methods) == {"forward", "timmx_ports"}


def test_a_manifest_may_be_replaced(file: Path) -> None:
    for manifest in (b"{}", b"x" * 100_000, b"y"):
        assert program.write_manifest(file, manifest)
        assert BACKEND.read(file) == manifest
    from executorch.runtime import Runtime

    assert Runtime.get().load_program(file).load_method("forward") is not None


@pytest.mark.parametrize(
    ("position", "data", "said"),
    [
        (4, b"ET13", "version ET13"),
        (4, b"ABCD", "not an ExecuTorch program"),
        (8, b"nope", "no header"),
        (12, b"\x18\0\0\0", "older version"),
        (16, b"\xff" * 8, "cut off"),
        (32, b"\xff" * 8, "cut off"),
        (0, b"\xf0\xff\xff\xff", "refers to what lies outside"),
    ],
)
def test_another_version_or_a_broken_head_is_named(
    file: Path, position: int, data: bytes, said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        BACKEND.read(changed(file, position, data))


@pytest.mark.parametrize("words", [("inspect",), ("verify",)])
@pytest.mark.parametrize("way", ["truncated", "another version"])
def test_inspect_and_verify_say_what_is_wrong(file: Path, words: tuple[str, ...], way: str) -> None:
    """In one line, with the exit code for files that cannot be read; no record tells more."""
    record_path(file).unlink()
    if way == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        changed(file, 4, b"ET99")
    done = subprocess.run([TIMMX, *words, str(file)], capture_output=True, text=True)
    assert done.returncode == ArtifactError.exit_code
    assert "Traceback" not in done.stderr
    said = "1000 bytes are missing" if way == "truncated" else "version ET99"
    assert said in done.stderr


def test_every_cut_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for length in range(1, len(data), len(data) // 60):
        file.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            BACKEND.read(file)


def test_garbage_in_the_tables_ends_well(file: Path) -> None:
    """Whatever offsets say, reading gives a manifest, None or an error of timmx's own."""
    data = file.read_bytes()
    size = int.from_bytes(data[16:24], "little")
    numbers = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(numbers.randint(1, 20)):
            broken[numbers.randrange(size)] = numbers.randrange(256)
        file.write_bytes(broken)
        with suppress(BadProgramError):
            found = program.read_manifest(file)
            assert found is None or isinstance(found, bytes)


def test_a_program_of_others_is_not_run(file: Path, tmp_path: Path) -> None:
    """It names no ports: without them nobody can say what its outputs are."""
    data = file.read_bytes()
    assert data.count(b"timmx_ports") == 1
    file.write_bytes(data.replace(b"timmx_ports", b"other_ports"))
    with pytest.raises(ArtifactError, match="timmx did not write it"):
        BACKEND.open(file, {})


def test_ports_that_are_no_ports(file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b'"inputs": ["input"]') == 1
    file.write_bytes(data.replace(b'"inputs": ["input"]', b'"inputs": [1234567]'))
    with pytest.raises(ArtifactError, match="does not name its ports"):
        BACKEND.open(file, {})
