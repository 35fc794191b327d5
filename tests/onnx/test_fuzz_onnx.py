"""ONNX files of any kind: read, or refused with an error of timmx's, and no other file opened."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fuzzing import TEXT, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from timmx_core.errors import ArtifactError
from timmx_onnx import metadata
from timmx_onnx.backend import OnnxBackend
from timmx_onnx.runner import check_external_files


def a_model(*weights: TensorProto) -> onnx.ModelProto:
    port = helper.make_tensor_value_info
    inner = helper.make_graph([], "inner", [], [], [*weights])
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner),
    ]
    ports = [port("x", 1, [4])], [port("y", 1, [4])]
    graph = helper.make_graph(nodes, "g", *ports, [helper.make_tensor("w", 1, [4], [1.0] * 4)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "good.onnx"
    path.write_bytes(a_model().SerializeToString())
    metadata.append_manifest(path, b'{"a": 1}')
    return path


@fuzz(200)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(good: Path, data: st.DataObject) -> None:
    path = good.with_name("damaged.onnx")
    path.write_bytes(data.draw(damaged(good.read_bytes())))
    for call in (OnnxBackend().read, OnnxBackend().content_digest, check_external_files):
        try:
            call(path)
        except ArtifactError as error:
            assert "\n" not in error.message  # noqa: PT017 (either is right)


@fuzz(200)
@given(location=TEXT, where=st.sampled_from(["initializer", "sparse", "attribute", "function"]))
def test_only_files_of_the_folder_are_named_for_weights(
    good: Path, location: str, where: str
) -> None:
    """Whatever passes is a plain name beside the model."""
    tensor = TensorProto(name="e", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    try:
        tensor.external_data.add(key="location", value=location)
    except (UnicodeEncodeError, ValueError):
        return
    model = a_model(tensor) if where == "initializer" else a_model()
    if where == "sparse":
        sparse = onnx.SparseTensorProto(dims=[4])
        sparse.values.CopyFrom(tensor)
        model.graph.sparse_initializer.append(sparse)
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    elif where == "function":
        node = helper.make_node("Constant", [], ["k"], value=tensor)
        model.functions.append(
            helper.make_function("d", "f", [], ["k"], [node], [helper.make_opsetid("", 20)])
        )
    path = good.with_name("external.onnx")
    path.write_bytes(model.SerializeToString())
    (good.parent / "beside").write_bytes(bytes(16))
    try:
        check_external_files(path)
    except ArtifactError:
        return
    assert (good.parent / location).is_file()
    assert Path(location).name == location
