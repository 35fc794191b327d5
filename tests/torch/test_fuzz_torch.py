"""Torch's archives, damaged in any way: refused, or to torch the same as to the one who screens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import TEXT, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from timmx_core.errors import ArtifactError
from timmx_torch import archive, saving, screening
from timmx_torch.backend import TorchExportBackend, TorchScriptBackend

GRAPH = "models/model.json"


class Small(torch.nn.Module):
    """A module with a weight and a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 4) to (N, 2)."""
        result: torch.Tensor = self.layer(image.reshape(image.shape[0], 4))
        return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a.pt2` and `a.pt`, both good."""
    folder = tmp_path_factory.mktemp("fuzz")
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    program = torch.export.export(Small(), (torch.ones(2, 4),), dynamic_shapes=shapes)
    ports = saving.ports(["input"], ["output"])
    saving.save_program(program, folder / "a.pt2", ports)
    traced = torch.jit.trace(Small(), torch.ones(2, 4))
    saving.save_script(traced, folder / "a.pt", ports)
    for name in ("a.pt2", "a.pt"):
        archive.add_extra(folder / name, archive.MANIFEST, b'{"a": 1}')
    return folder


@fuzz(150)
@given(data=st.data())
def test_torch_reads_what_was_screened(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".pt", ".pt2"]))
    good = (folder / f"a{suffix}").read_bytes()
    # The directory is at the end, and worth most.
    split = len(good) - data.draw(st.sampled_from([len(good), 4000, 1500, 100, 22]))
    path = folder / f"damaged{suffix}"
    path.write_bytes(good[:split] + data.draw(damaged(good[split:])))
    try:
        if suffix == ".pt":
            screening.screen_script(path)
        else:
            screening.screen_program(path)
        with archive.opened(path) as opened:
            members = {name: opened.read(name, 1 << 24) for name in opened.names()}
    except (ArtifactError, archive.BadArchive):
        return
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        seen = {name: reader.get_record(name) for name in reader.get_all_records()}
    except RuntimeError:
        return  # torch refuses it, too
    assert seen == {name: value for name, value in members.items() if name in seen}
    assert seen.keys() <= members.keys()


@fuzz(60)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".pt", ".pt2"]))
    path = folder / f"read{suffix}"
    path.write_bytes(data.draw(damaged((folder / f"a{suffix}").read_bytes())))
    for backend in (TorchExportBackend(), TorchScriptBackend()):
        try:
            backend.read(path)
            backend.content_digest(path)
        except ArtifactError as error:
            assert "\n" not in error.message  # noqa: PT017 (either is right)


STRANGE = TEXT | st.sampled_from(
    ["__import__('os')", "torch.os.system", "a;b", "lambda: 0", "x.__class__", "#evil", "a\nb"]
)


def strings(node: Any) -> list[tuple[Any, Any]]:
    """Where in a graph strings stand: containers and keys."""
    found = []
    items: Any = node.items() if isinstance(node, dict) else ()
    items = enumerate(node) if isinstance(node, list) else items
    for key, value in items:
        found += [(node, key)] if isinstance(value, str) else strings(value)
    return found


@fuzz(150)
@given(data=st.data())
def test_no_strange_string_gets_into_a_graph(folder: Path, data: st.DataObject) -> None:
    """What passes can be neither a call, nor an attribute, nor a second statement of Python."""
    with archive.opened(folder / "a.pt2") as opened:
        graph = json.loads(opened.read(GRAPH, 1 << 24) or b"")
    container, key = data.draw(st.sampled_from(strings(graph)))
    value = data.draw(STRANGE)
    container[key] = value
    try:
        screening._check(graph)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # the caller makes one error of them
    # Metadata stay strings; what is quoted in Python source holds nothing that ends a quotation.
    if key in screening.PATHS:
        assert not set(value) & set("\"'\\\n\r")
    elif key not in ("nn_module_stack", "torch_fn", "stack_trace", "as_string"):
        assert not set(value) & set("();#\n\0\"'")
