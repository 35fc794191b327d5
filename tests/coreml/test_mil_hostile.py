"""Broken and hostile packages: an error of a known type, soon, and nothing outside is read."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mil_programs
import numpy as np
import pytest

from timmx_coreml.metadata import read_manifest
from timmx_coreml.mil import ProgramError, UnsupportedOperation, load
from timmx_coreml.mil.wire import Budget, decode

mb = pytest.importorskip("coremltools.converters.mil").Builder
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution and a linear layer, with their weights in the weight file."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    matrix = rng.standard_normal((5, 8)).astype(np.float32)

    def build(x: Any) -> Any:
        y = mb.relu(x=mb.conv(x=x, weight=kernel, pad_type="same"))
        return mb.linear(x=mb.reduce_mean(x=y, axes=[2, 3]), weight=matrix)

    path = tmp_path_factory.mktemp("good") / "m.mlpackage"
    return mil_programs.save(path, build, [np.zeros((1, 3, 8, 8), np.float32)])


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "m.mlpackage"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the specification in place."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / MODEL).read_bytes())
    change(spec)
    (path / MODEL).write_bytes(spec.SerializeToString())


def operations(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def run(path: Path) -> Any:
    program = load(path)
    return program.run({"x": np.ones((1, 3, 8, 8), np.float32)})


def test_the_good_one_runs(copy: Path) -> None:
    (result,) = run(copy).values()
    assert result.shape == (1, 5)


def test_every_truncation_is_an_error_or_harmless(copy: Path) -> None:
    whole = {name: (copy / name).read_bytes() for name in (MODEL, WEIGHTS)}
    for name, data in whole.items():
        for length in {0, 1, 63, 64, len(data) // 3, len(data) // 2, len(data) - 1}:
            (copy / name).write_bytes(data[:length])
            with pytest.raises((ProgramError, UnsupportedOperation)):
                run(copy)
        (copy / name).write_bytes(data)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_pipe_is_not_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    # Whoever opens it to read waits for a writer, and here is one, which ends at once.
    writer = threading.Timer(5, lambda: os.close(os.open(copy / name, os.O_WRONLY)))
    writer.daemon = True
    writer.start()
    start = time.monotonic()
    with pytest.raises(ProgramError):
        run(copy)
    assert time.monotonic() - start < 4
    writer.cancel()


def test_random_bytes_never_crash(copy: Path) -> None:
    """One changed byte: an error of ours, or a program that still runs."""
    rng = np.random.default_rng(0)
    data = bytearray((copy / MODEL).read_bytes())
    for position in rng.integers(0, len(data), 300):
        old = data[position]
        data[position] = int(rng.integers(0, 256))
        (copy / MODEL).write_bytes(data)
        try:
            run(copy)
        except (ProgramError, UnsupportedOperation):
            pass
        data[position] = old


def test_random_weights_files_never_crash(copy: Path) -> None:
    rng = np.random.default_rng(1)
    data = bytearray((copy / WEIGHTS).read_bytes())
    for position in rng.integers(0, min(len(data), 192), 100):
        old = data[position]
        data[position] = int(rng.integers(0, 256))
        (copy / WEIGHTS).write_bytes(data)
        try:
            run(copy)
        except (ProgramError, UnsupportedOperation):
            pass
        data[position] = old


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_damaged_index(copy: Path, content: bytes) -> None:
    (copy / "Manifest.json").write_bytes(content)
    with pytest.raises(ProgramError):
        load(copy)


@pytest.mark.parametrize("path", ["../../../etc/hostname", "/etc/hostname"])
def test_no_file_outside_of_the_package_is_read(copy: Path, path: str) -> None:
    index = json.loads((copy / "Manifest.json").read_text())
    index["itemInfoEntries"][index["rootModelIdentifier"]]["path"] = path
    (copy / "Manifest.json").write_text(json.dumps(index))
    with pytest.raises(ProgramError, match=r"outside|lacks"):
        load(copy)


@pytest.mark.parametrize("name", ["@model_path/../../../../secret.bin", "/etc/hostname"])
def test_no_weights_outside_of_the_package_are_read(copy: Path, name: str) -> None:
    def change(spec: Any) -> None:
        for operation in operations(spec):
            value = operation.attributes["val"] if operation.type == "const" else None
            if value is not None and value.HasField("blobFileValue"):
                value.blobFileValue.fileName = name

    edit(copy, change)
    with pytest.raises(ProgramError, match="outside"):
        load(copy)


def test_a_link_to_the_outside_is_refused(copy: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    shutil.copy(copy / WEIGHTS, secret)
    (copy / WEIGHTS).unlink()
    (copy / WEIGHTS).symlink_to(secret)
    with pytest.raises(ProgramError, match="outside"):
        load(copy)


def test_an_unknown_operation_is_not_verifiable_and_not_wrong(copy: Path) -> None:
    def change(spec: Any) -> None:
        next(o for o in operations(spec) if o.type == "relu").type = "hologram"

    edit(copy, change)
    with pytest.raises(UnsupportedOperation, match="operation hologram"):
        load(copy)


def test_a_huge_tensor_is_refused_before_it_is_made(copy: Path) -> None:
    def change(spec: Any) -> None:
        relu = next(o for o in operations(spec) if o.type == "relu")
        for dimension in relu.outputs[0].type.tensorType.dimensions:
            dimension.constant.size = 1 << 20

    edit(copy, change)
    with pytest.raises(ProgramError, match="declares a tensor"):
        load(copy)


def test_a_wrong_shape_is_an_error(copy: Path) -> None:
    def change(spec: Any) -> None:
        relu = next(o for o in operations(spec) if o.type == "relu")
        relu.outputs[0].type.tensorType.dimensions[1].constant.size = 9

    edit(copy, change)
    with pytest.raises(ProgramError, match="gives shape"):
        run(copy)


def test_fp32_does_not_become_fp16_without_a_cast(copy: Path) -> None:
    def change(spec: Any) -> None:
        relu = next(o for o in operations(spec) if o.type == "relu")
        relu.outputs[0].type.tensorType.dataType = 10  # FLOAT16

    edit(copy, change)
    with pytest.raises(ProgramError, match="without a cast"):
        load(copy)


def test_a_name_that_is_never_computed_is_an_error(copy: Path) -> None:
    def change(spec: Any) -> None:
        relu = next(o for o in operations(spec) if o.type == "relu")
        relu.inputs["x"].arguments[0].name = "nowhere"

    edit(copy, change)
    with pytest.raises(ProgramError, match="nowhere"):
        run(copy)


def test_weights_that_claim_to_lie_beyond_the_file(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS).read_bytes())
    struct.pack_into("<Q", data, 64 + 16, 1 << 62)
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(ProgramError, match="truncated"):
        load(copy)


def test_more_weights_than_the_program_has(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS).read_bytes())
    (size,) = struct.unpack_from("<Q", data, 64 + 8)
    struct.pack_into("<Q", data, 64 + 8, size - 4)
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(ProgramError, match="bytes"):
        load(copy)


def test_an_input_of_another_shape_or_name_is_an_error(copy: Path) -> None:
    program = load(copy)
    with pytest.raises(ProgramError, match="shape"):
        program.run({"x": np.ones((1, 3, 8, 9), np.float32)})
    with pytest.raises(ProgramError, match="takes"):
        program.run({"image": np.ones((1, 3, 8, 8), np.float32)})


def test_a_million_nested_messages_are_refused_quickly(copy: Path) -> None:
    """Types within types, deeper than Python's stack."""
    data = b""
    for _ in range(200):
        size, body = len(data), data
        encoded = b""
        while size > 0x7F:
            encoded += bytes([size & 0x7F | 0x80])
            size >>= 7
        data = b"\x12" + encoded + bytes([size]) + body
    (copy / MODEL).write_bytes(data)
    start = time.monotonic()
    with pytest.raises((ProgramError, UnsupportedOperation)):
        load(copy)
    assert time.monotonic() - start < 5


def test_fields_without_end_are_refused() -> None:
    with pytest.raises(ProgramError, match="more fields"):
        decode(memoryview(b"\x08\x01" * 1000), Budget(fields=500))


def test_a_loop_without_end_is_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda v: mb.squeeze(x=mb.greater(x=v, y=-1.0), axes=[0]),
            _body=lambda v: mb.mul(x=v, y=1.0),
            loop_vars=(x,),
        )

    x = np.ones((1,), np.float32)
    path = mil_programs.save(tmp_path / "m.mlpackage", build, [x])
    with pytest.raises(ProgramError, match="did not end"):
        load(path).run({"x": x})


def test_reading_the_manifest_of_files_that_are_none(tmp_path: Path, copy: Path) -> None:
    assert read_manifest(copy) is None
    assert read_manifest(tmp_path / "missing.mlpackage") is None
    assert read_manifest(tmp_path) is None
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(ProgramError):
        read_manifest(tmp_path / "empty.mlpackage")
