"""Reading ONNX files without onnx, whoever wrote them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from timmx_core.errors import ArtifactError, ExportError
from timmx_onnx import export, metadata, storage, wire
from timmx_onnx.backend import OnnxBackend
from timmx_onnx.runner import check_external_files
from timmx_onnx.wire import WireError, bytes_field, varint

GIGABYTE = 1 << 30


def a_model(*initializers: TensorProto) -> onnx.ModelProto:
    port = helper.make_tensor_value_info
    add = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [add], "g", [port("x", 1, [4])], [port("y", 1, [4])], list(initializers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def written(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def test_a_manifest_comes_back_and_leaves_the_model_valid(tmp_path: Path) -> None:
    path = written(tmp_path, a_model(helper.make_tensor("w", 1, [4], [1.0] * 4)))
    for manifest in (b'{"a": 1}', b'{"b": 22}', b"{}"):
        metadata.append_manifest(path, manifest)
        assert OnnxBackend().read(path) == manifest
    model = onnx.load(path)
    assert {p.key: p.value for p in model.metadata_props} == {"timmx": "{}"}
    onnx.checker.check_model(model, full_check=True)
    assert metadata.read_header(path).opset == 20


@pytest.mark.parametrize("external", ["never", "always"])
@pytest.mark.parametrize("operator", ["MatMul", "Nope"])
def test_a_written_file_is_checked_without_its_weights(
    tmp_path: Path, external: str, operator: str
) -> None:
    weight = numpy_helper.from_array(np.ones((400, 300), np.float32), "w")
    node = helper.make_node(operator, ["x", "w"], ["y"])
    ports = [helper.make_tensor_value_info("x", 1, [4, 400])]
    graph = helper.make_graph(
        [node], "g", ports, [helper.make_tensor_value_info("y", 1, [4, 300])], [weight]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "m.onnx"
    stored = storage.save(ir.from_proto(proto), path, external)
    assert len(stored.skeleton) < 1000
    if operator == "Nope":
        with pytest.raises(ExportError, match="invalid"):
            export.check_file(path, stored.skeleton, 20)
    else:
        export.check_file(path, stored.skeleton, 20)
        bones = tmp_path / "bones.onnx"
        bones.write_bytes(stored.skeleton)
        (found,) = onnx.load(bones).graph.initializer
        assert numpy_helper.to_array(found).sum() == 120_000
        bones.unlink()
    assert {p.name for p in tmp_path.iterdir()} == {
        "m.onnx",
        *([stored.data.name] if stored.data else []),
    }


def test_a_manifest_is_not_put_behind_what_another_tool_wrote(tmp_path: Path) -> None:
    path = written(tmp_path, a_model())
    metadata.append_manifest(path, b"{}")
    with path.open("ab") as file:
        file.write(bytes_field(metadata.MODEL_PROPS, b""))
    with pytest.raises(WireError, match="other data behind it"):
        metadata.append_manifest(path, b"{}")


def test_reading_the_manifest_imports_no_converter(tmp_path: Path) -> None:
    path = written(tmp_path, a_model())
    metadata.append_manifest(path, b'{"a": 1}')
    code = (
        "import sys; from pathlib import Path; from timmx_onnx.backend import OnnxBackend; "
        f"assert OnnxBackend().read(Path({str(path)!r})) == b'{{\"a\": 1}}'; "
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'torch', 'google.protobuf'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    manifest = bytes_field(1, b"timmx") + bytes_field(2, b'{"large": true}')
    with path.open("wb") as file:  # sparse: its middle takes no disk
        file.write(wire.bytes_header(metadata.MODEL_GRAPH, GIGABYTE))
        file.seek(GIGABYTE, 1)
        file.write(bytes_field(metadata.MODEL_PROPS, manifest))
    assert OnnxBackend().read(path) == b'{"large": true}'


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph that is longer than the file
        b"\xff" * 11,  # a number that does not end
        b"\x0b\x0c",  # groups, which protobuf gave up
        b"\x00\x00",  # field number zero
        b"\x72",  # a field without a length
        b"not a model at all",
        b"",
        b"\x08\x0a",  # no graph
        bytes_field(14, bytes_field(1, b"timmx") + varint(2 << 3) + b"\x05"),  # a number for a text
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        OnnxBackend().read(path)
    other = path.rename(tmp_path / "bad.bin")
    assert OnnxBackend().read(other) is None


def test_a_manifest_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, a_model())
    size = metadata.MAX_MANIFEST + 1
    entry = bytes_field(1, b"timmx") + wire.bytes_header(2, size)
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(wire.bytes_header(metadata.MODEL_PROPS, len(entry) + size) + entry)
        file.seek(size - 1, 1)
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="are allowed"):
        OnnxBackend().read(path)


def test_endless_fields_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    path = tmp_path / "endless.onnx"
    path.write_bytes(b"\x08\x01" * 2000)
    with pytest.raises(ArtifactError, match="more than 1000 fields"):
        OnnxBackend().read(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    for read in (metadata.read_header, metadata.external_files):
        try:
            read(path)
        except WireError:
            continue


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "..", "", "sub/w.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = written(folder, a_model(external(location)))
    with pytest.raises(ArtifactError, match="outside its folder"):
        OnnxBackend().open(path, {})


def test_a_link_to_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ArtifactError, match="is a link elsewhere"):
        check_external_files(written(folder, a_model(external("w.bin"))))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, a_model(external("w.bin")))
    with pytest.raises(ArtifactError, match=r"w\.bin, and that is not there"):
        check_external_files(path)


def test_external_tensors_are_found_wherever_they_stand(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("constant"))
    body = helper.make_graph([constant], "then", [], [], [external("inner")])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    function = helper.make_function(
        "local", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)]
    )
    graph = helper.make_graph([branch], "g", [], [], [external("outer")])
    model = helper.make_model(graph, functions=[function])
    found = metadata.external_files(written(tmp_path, model))
    assert found == {"constant", "inner", "outer"}
