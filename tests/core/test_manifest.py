"""The manifest: what was written is read again, and nothing else is taken for one."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pocket_format import PocketBackend

from timmx_core import api
from timmx_core.backend import TensorSpec
from timmx_core.cli.inspect_command import _lines
from timmx_core.errors import ArtifactError
from timmx_core.files import manifest as manifests
from timmx_core.files.inspection import snippet
from timmx_core.files.publishing import record_path
from timmx_core.lifecycle.verify_file import _probes
from timmx_core.results import ExportResult, Inspection
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, two_outputs
from timmx_core.verification.measure import Reference


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return api.export(
        "pocket",
        two_outputs(),
        input_size=INPUT_SIZE,
        dynamic_batch=True,
        output=tmp_path_factory.mktemp("manifest") / "model.pocket",
        manager=manager_of(PocketBackend()),
    )


def test_it_is_read_as_it_was_written(result: ExportResult) -> None:
    data = manifests.dump(result.manifest)
    assert manifests.parse(data) == result.manifest
    assert manifests.dump(manifests.parse(data)) == data
    assert result.path is not None
    record = manifests.parse(record_path(result.path).read_bytes(), "record")
    assert record == result.record
    assert record["manifest"] == result.manifest


def test_it_says_nothing_of_when_and_where(
    result: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = manifests.dump(result.manifest).decode()
    assert str(Path.home()) not in text
    assert result.path is not None
    assert str(result.path.parent) not in text
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert manifests.created() == "1970-01-02T00:00:00Z"


def test_ports_survive_json() -> None:
    spec = TensorSpec(
        "input",
        ((1, 2, None), 3, 8, 8),
        "int8",
        "image",
        "NCHW",
        quantization=(0.5, 3),
        color="BGR",
        range=(0.0, 255.0),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
    )
    assert manifests.spec_from_json(manifests.spec_to_json(spec)) == spec


def test_a_large_reference_is_sampled_with_what_the_whole_would_say() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((8, 300_000)).astype(np.float32)
    reference = Reference("features_0", (3, 100_000), values, None, layout="NCL")
    data = manifests.reference_to_json(reference)
    assert len(json.dumps(data)) < 4 << 20
    back = manifests.reference_from_json(data, 8)
    assert back.positions is not None
    assert np.array_equal(back.values, values[:, back.positions])
    assert back.signal == pytest.approx(reference.signal, rel=0.05)


def changed(manifest: Mapping[str, Any], change: Callable[[Any], object]) -> bytes:
    copied = copy.deepcopy(dict(manifest))
    change(copied)
    return json.dumps(copied).encode()


HOSTILE: dict[str, Callable[[Any], object]] = {
    "code for a name": lambda m: m["inputs"][0].update(name="x=x); print(x"),
    "two lines for a name": lambda m: m["outputs"][0].update(name="output\n"),
    "code for a layout": lambda m: m["inputs"][0].update(layout="print()"),
    "a text for a number": lambda m: m["inputs"][0].update(mean=["print()"]),
    "format is no word": lambda m: m.update(format={"a": 1}),
    "format is a path": lambda m: m.update(format="../../etc"),
    "no inputs": lambda m: m.update(inputs=[]),
    "a negative dimension": lambda m: m["inputs"][0].update(shape=[-1, 3, 32, 32]),
    "an endless dimension": lambda m: m["inputs"][0].update(shape=[10**30, 3, 32, 32]),
    "an endless least batch": lambda m: m["inputs"][0].update(
        shape=[[10**12, 10**12, None], 3, 32, 32]
    ),
    "an unknown dtype": lambda m: m["inputs"][0].update(dtype="object"),
    "an unknown role": lambda m: m["outputs"][0].update(role="code"),
    "probes without a size": lambda m: m["probes"].pop("height"),
    "probes of no size": lambda m: m["probes"].update(height=0),
    "probes beyond measure": lambda m: m["probes"].update(count=10**12),
    "no reference": lambda m: m.pop("reference"),
    "a reference that is no text": lambda m: m["reference"][0].update(values=[1, 2]),
    "labels that are no text": lambda m: m.update(labels=[1, 2]),
    "a name without end": lambda m: m["model"].update(name="x" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_the_schema_is_refused(result: ExportResult, name: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        manifests.parse(changed(result.manifest, HOSTILE[name]))
    assert len(str(caught.value)) < 600
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("batch", [10**9, [10**9, 10**9, None], [1, 10**5, None]])
def test_batches_beyond_measure_are_not_run(result: ExportResult, batch: Any) -> None:
    shape = [batch, *INPUT_SIZE]
    data = changed(result.manifest, lambda m: m["inputs"][0].update(shape=shape))
    manifest = manifests.parse(data)
    if batch == [1, 10**5, None]:
        _probes(manifest)  # tuned for many, and run with eight
        return
    with pytest.raises(ArtifactError, match="larger batches than are reasonable"):
        _probes(manifest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"schema_version": NaN}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_manifest_is_refused_in_time(data: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(ArtifactError):
        manifests.parse(data)
    assert time.monotonic() - start < 5


def test_more_bytes_than_a_manifest_may_have_are_not_parsed() -> None:
    with pytest.raises(ArtifactError, match="larger than"):
        manifests.parse(b" " * (manifests.MOST_BYTES + 1))


def test_a_newer_schema_names_the_cure(result: ExportResult) -> None:
    with pytest.raises(ArtifactError) as caught:
        manifests.parse(changed(result.manifest, lambda m: m.update(schema_version=99)))
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(values=r["values"][:-8]),
        lambda r: r.update(values="not base64!"),
        lambda r: r.update(shape=[10**9, 10**9]),
        lambda r: r.update(positions="AAAAAAAAAIA="),
    ],
)
def test_a_reference_that_contradicts_itself_is_refused(
    result: ExportResult, change: Callable[[Any], object]
) -> None:
    data = copy.deepcopy(result.manifest["reference"][0])
    change(data)
    with pytest.raises(ArtifactError):
        manifests.reference_from_json(data, 8)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_record_cannot_lead_out_of_its_folder(
    result: ExportResult, tmp_path: Path, name: str
) -> None:
    assert result.path is not None
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret")
    path = folder / "model.pocket"
    path.write_bytes(result.path.read_bytes())
    record = dict(result.record) | {"members": {name: "0" * 64}}
    record_path(path).write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"outside its folder|not valid"):
        api.inspect(path, manager=manager_of(PocketBackend()))


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in some JSON, of long lists the first."""
    inner: Any = value if isinstance(value, dict) else {}
    inner = dict(enumerate(value[:2])) if isinstance(value, list) else inner
    for key, child in inner.items():
        yield (*way, key)
        yield from places(child, (*way, key))


def test_whatever_is_taken_can_be_shown(result: ExportResult) -> None:
    """A record that lacks something, or has nothing there, is refused, or all of it is shown."""
    record = json.loads(json.dumps(dict(result.record)))
    record["manifest"]["inputs"][0] |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    record["verdict"]["measurements"][0] |= {"top1": 1.0, "top5": 1.0}
    manifests.parse(json.dumps(record).encode(), "record")
    shown = 0
    instead: list[Any] = [None, [], 1e308]
    for *way, last in places(record):
        for value in instead:
            changed = copy.deepcopy(record)
            place = changed
            for key in way:
                place = place[key]
            if value == 1e308 and not isinstance(place[last], (int, float)):
                continue
            if value is None:
                place.pop(last)
            else:
                place[last] = value
            try:
                manifests.validate(changed, "record")
            except ArtifactError:
                continue
            manifest = changed["manifest"]
            inspection = Inspection(
                Path("m.pocket"), "pocket", True, manifest, changed, intact=True, problems=()
            )
            try:
                assert _lines(inspection), (way, last)
                compile(snippet(inspection, PocketBackend()), "snippet", "exec")
            except (LookupError, ArithmeticError, TypeError, ValueError) as error:
                raise AssertionError(f"{[*way, last]} as {value}") from error
            shown += 1
    assert shown > 100
