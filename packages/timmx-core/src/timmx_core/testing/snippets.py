"""The Python that a format gives for its files: it runs them, and a file's text is text in it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from timmx_core.errors import ArtifactError
from timmx_core.files import inspection, manifest
from timmx_core.results import ExportResult, Inspection
from timmx_core.testing.case import Case
from timmx_core.testing.lab import Lab, ports

# Of the outputs, which are arrays of numpy.
SHAPES = "report([list(o.shape) if isinstance(o, np.ndarray) else str(type(o)) for o in outputs])"
# What ends a call, every kind of quotation, a comment, and an escape in quotation marks.
HOSTILE = ("x=x); print(x", "'''\"\"\"\\\nimport os\n", "\\'+print(x)+\\'", '\\"+print(x)+\\"')
Place = tuple[str | int, ...]


class SnippetTests(Case):
    """What `timmx inspect --snippet python` prints."""

    def test_its_snippet_runs(self, lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
        """The lines that `timmx inspect --snippet python` prints give what the file gives."""
        result = lab.require_plain()
        lab.require_runtime()
        capfd.readouterr()
        body = lab.backend.snippet(result.manifest)
        printed = capfd.readouterr().out
        assert not printed, f"it prints to stdout, where results go: {printed[:100]!r}"
        if body is None:
            pytest.skip("the format does not run from Python")
        port = ports(result, "inputs")[0]
        shape = [d if isinstance(d, int) else d[0] for d in port.shape]
        _, shapes = lab.process(
            f"import numpy as np\npath = {str(result.path)!r}\n"
            f"x = np.zeros({shape!r}, np.{port.dtype})\n"
            f"{body}\n{SHAPES}",
        )
        declared = [
            [d if isinstance(d, int) else d[0] for d in o.shape] for o in ports(result, "outputs")
        ]
        assert shapes == declared

    def test_text_of_a_file_is_no_code_in_its_snippet(self, lab: Lab) -> None:
        """Whatever a stranger's file says: of its snippet no more than constants differ by it."""
        result = lab.require_plain()
        if lab.backend.snippet(result.manifest) is None:
            pytest.skip("the format does not run from Python")
        for place in places(result.manifest):
            expected = shape_of(lab, result, place, "harmless")
            for text in HOSTILE:
                # Names are bounded by the schema, and are to be quoted nevertheless.
                if "name" in place or allowed(result.manifest, place, text):
                    found = shape_of(lab, result, place, text)
                    assert found == expected, f"{place} of the manifest is code in the snippet"


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where a manifest has a text or number; of a list, in its first item."""
    if isinstance(value, Mapping):
        for key in value:
            yield from places(value[key], (*place, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))
    elif not isinstance(value, list):
        yield place


def exchanged(whole: Mapping[str, Any], place: Place, text: str) -> dict[str, Any]:
    """A copy of the manifest with a text at that place."""
    changed: dict[str, Any] = copy.deepcopy(dict(whole))
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = text
    return changed


def allowed(whole: Mapping[str, Any], place: Place, text: str) -> bool:
    """Whether a manifest with that text is read at all."""
    try:
        manifest.validate(exchanged(whole, place, text), "manifest")
    except ArtifactError:
        return False
    return True


def shape_of(lab: Lab, result: ExportResult, place: Place, text: str) -> str:
    """The snippet's syntax without its texts; the error's kind where there is no such Python."""
    assert result.path is not None
    said = exchanged(result.manifest, place, text)
    file = Inspection(result.path, lab.backend.name, True, said, None, None)
    try:
        tree = ast.parse(inspection.snippet(file, lab.backend))
    except Exception as error:  # noqa: BLE001 - the same for a harmless text, or a fault
        return type(error).__name__
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)
