"""Manifests, records, JSON and names of any kind: read, or refused with an error of timmx's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, TEXT, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st
from pocket_format import PocketBackend

from timmx_core import api
from timmx_core.cli.inspect_command import _lines
from timmx_core.cli.terminal import harmless
from timmx_core.errors import CannotRunHere, TimmxError
from timmx_core.files import manifest as manifests
from timmx_core.files.output_path import default_name
from timmx_core.files.publishing import record_path
from timmx_core.models.checks import check_name, parse_kwargs
from timmx_core.models.labels import read_labels
from timmx_core.reading import strict_json
from timmx_core.results import ExportResult
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn


class Recorded(PocketBackend):
    """Gives the bytes that a test says as the manifest, and runs nowhere."""

    def read(self, path: Path) -> bytes | None:
        return path.read_bytes()

    def check_run(self) -> None:
        raise CannotRunHere("a test")


MANAGER = manager_of(Recorded())


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return api.export(
        "pocket",
        tiny_cnn(),
        input_size=INPUT_SIZE,
        output=tmp_path_factory.mktemp("fuzz") / "model.pocket",
        manager=manager_of(PocketBackend()),
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    children: Any = value.items() if isinstance(value, dict) else ()
    children = enumerate(value[:3]) if isinstance(value, list) else children
    for key, inner in children:
        found += places(inner, (*path, key))
    return found


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


def check_message(error: Exception, most: int = 2000) -> None:
    """Whatever a file says, the message is of a bounded length."""
    assert len(str(error)) < most


def read_all(path: Path) -> None:
    """All that is done with a file before it is run."""
    try:
        found = api.inspect(path, manager=MANAGER)
        for line in _lines(found):
            assert harmless(line).isprintable() or line
        api.snippet(found, manager=MANAGER)
    except TimmxError as error:
        check_message(error)
    try:
        api.verify(path, manager=MANAGER)
    except TimmxError as error:
        check_message(error)


@fuzz(60)
@given(data=st.data())
def test_manifests_with_anything_anywhere(
    result: ExportResult, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content: Any = copy.deepcopy(dict(result.manifest))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(content)))
        content = put(content, place, data.draw(JSON))
        if not isinstance(content, dict):
            break
    if isinstance(content, dict) and data.draw(st.booleans()):
        content["sha256"] = manifests.digest(content)
    path = tmp_path_factory.getbasetemp() / "fuzzed.pocket"
    path.write_bytes(json.dumps(content).encode())
    read_all(path)


@fuzz(40)
@given(data=st.data())
def test_records_with_anything_anywhere(
    result: ExportResult, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    record = copy.deepcopy(dict(result.record))
    if data.draw(st.booleans()):
        record["members"] = data.draw(st.dictionaries(TEXT, st.just("0" * 64), max_size=3))
    else:
        record = put(record, data.draw(st.sampled_from(places(record))), data.draw(JSON))
    path = tmp_path_factory.getbasetemp() / "recorded.pocket"
    path.write_bytes(manifests.dump(result.manifest))
    record_path(path).write_bytes(json.dumps(record).encode())
    read_all(path)


@fuzz(60)
@given(data=st.data())
def test_damaged_manifests(
    result: ExportResult, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pocket"
    path.write_bytes(data.draw(damaged(manifests.dump(result.manifest))))
    read_all(path)


@fuzz(100)
@given(content=JSON)
def test_strict_json_is_what_python_writes_or_refused(content: Any) -> None:
    data = json.dumps(content).encode()
    try:
        assert strict_json.loads(data) == content
    except strict_json.BadJson:
        nothing_wrong = json.dumps(content, ensure_ascii=False, allow_nan=False)
        pytest.fail(f"refused: {nothing_wrong[:200]}") if _plain(content) else None
    except UnicodeEncodeError:
        return


def _plain(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, UnicodeEncodeError):
        return False
    return True


@fuzz(100)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_json_or_not(data: bytes) -> None:
    try:
        strict_json.loads(data)
    except strict_json.BadJson as error:
        check_message(error, 200)


@fuzz(200)
@given(name=TEXT | st.builds(lambda a, b: a + b, st.sampled_from(["hf-hub:", "local-dir:"]), TEXT))
def test_names_of_models(name: str) -> None:
    plain = default_name(name)
    assert Path(plain).name == plain
    assert plain not in ("", ".", "..")
    assert plain.isascii()
    assert len(plain) <= 150
    try:
        check_name(name)
    except TimmxError as error:
        check_message(error, 6000)


@fuzz(200)
@given(key=TEXT | st.just("key"), value=TEXT)
def test_model_kwargs(key: str, value: str) -> None:
    try:
        (parsed,) = parse_kwargs((f"{key}={value}",)).values()
    except TimmxError:
        return
    assert isinstance(
        parsed,
        (str, bytes, int, float, complex, bool, tuple, list, dict, set, type(None), type(...)),
    )


@fuzz(60)
@given(data=st.binary(max_size=60) | TEXT.map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_labels(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.txt"
    path.write_bytes(data)
    try:
        labels = read_labels(str(path))
    except TimmxError:
        return
    assert labels
    assert all(label.isprintable() and label for label in labels)


@fuzz(200)
@given(text=st.text())
def test_no_text_commands_a_terminal(text: str) -> None:
    shown = harmless(text)
    assert all(ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0 for c in shown)
    assert harmless(shown) == shown
