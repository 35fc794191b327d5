"""Faults in what is converted, and in the finished package, are found."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fault_suite import SIZE, SMALL, SMALL_OPTIONS, FaultSuite
from fault_trials import export, refresh_record, verify

from timmx_coreml.backend import CoreMLBackend

pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="tests of the interpreter")
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


class TestCoreML(FaultSuite):
    backend = CoreMLBackend()
    # Tracing takes a third of the time, and what is tried here is the verdict.
    options: ClassVar[Mapping[str, Any]] = {
        **SMALL_OPTIONS,
        "precision": "fp32",
        "source": "trace",
    }
    impossible: ClassVar[Mapping[str, str]] = {
        "float64 outputs": "a program has none, and says of which type its outputs are",
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of images in fp16."""
    target = tmp_path_factory.mktemp("good") / "model.mlpackage"
    options: dict[str, Any] = {"labels": "imagenet-1k", "image_input": True, "input_size": SIZE}
    return export(CoreMLBackend(), SMALL, target, **options)


def change_spec(path: Path, change: Callable[[Any], None]) -> None:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / MODEL).read_bytes())
    change(spec)
    (path / MODEL).write_bytes(spec.SerializeToString(deterministic=True))


def operations(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def constant(spec: Any, name: str) -> Any:
    """The value of a constant by its name."""
    for operation in operations(spec):
        if operation.type == "const" and operation.outputs[0].name == name:
            return operation.attributes["val"]
    raise AssertionError(name)


def weights_flipped(path: Path) -> None:
    data = np.frombuffer((path / WEIGHTS).read_bytes(), np.uint8).copy()
    start = len(data) // 2 | 1  # the bytes that hold sign and exponent
    data[start : start + 4000 : 2] ^= 0x40
    (path / WEIGHTS).write_bytes(data.tobytes())


def weights_zeroed(path: Path) -> None:
    data = bytearray((path / WEIGHTS).read_bytes())
    data[256 : 256 + 800] = bytes(800)
    (path / WEIGHTS).write_bytes(data)


def strides_changed(path: Path) -> None:
    def change(spec: Any) -> None:
        conv = next(o for o in operations(spec) if o.type == "conv")
        value = constant(spec, conv.inputs["strides"].arguments[0].name)
        value.immediateValue.tensor.ints.values[0] += 1

    change_spec(path, change)


def epsilon_changed(path: Path) -> None:
    """The scale of an activation, an axis, or the like: the smallest parameter there is."""

    def change(spec: Any) -> None:
        norm = next(o for o in operations(spec) if o.type in ("layer_norm", "batch_norm"))
        value = constant(spec, norm.inputs["epsilon"].arguments[0].name).immediateValue.tensor
        if value.WhichOneof("value") == "bytes":
            value.bytes.values = np.float16(1.0).tobytes()
        else:
            value.floats.values[0] = 1.0

    change_spec(path, change)


def image_bias_changed(path: Path) -> None:
    """The mean that is taken off the pixels: half of it."""

    def change(spec: Any) -> None:
        # The converter makes one operation of the scale and the bias.
        norm = next(o for o in operations(spec) if o.type == "batch_norm")
        tensor = constant(spec, norm.inputs["beta"].arguments[0].name).immediateValue.tensor
        data = np.frombuffer(tensor.bytes.values, np.float16) / 2
        assert data.size == 3
        tensor.bytes.values = data.astype(np.float16).tobytes()

    change_spec(path, change)


def colours_swapped(path: Path) -> None:
    def change(spec: Any) -> None:
        spec.description.input[0].type.imageType.colorSpace = 30  # BGR

    change_spec(path, change)


def labels_moved(path: Path) -> None:
    def change(spec: Any) -> None:
        classify = next(o for o in operations(spec) if o.type == "classify")
        (binding,) = classify.inputs["classes"].arguments
        value = binding.value if binding.HasField("value") else constant(spec, binding.name)
        items = value.immediateValue.list.values
        first = type(items[0])()
        first.CopyFrom(items[0])
        del items[0]
        items.append(first)

    change_spec(path, change)


CHANGES = (
    weights_flipped,
    weights_zeroed,
    strides_changed,
    epsilon_changed,
    image_bias_changed,
    colours_swapped,
    labels_moved,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_faults_in_the_package(change: Callable[[Path], None], good: Path, tmp_path: Path) -> None:
    """Changed after the export; the record's digests fit, so that the measure must find it."""
    path = Path(shutil.copytree(good, tmp_path / good.name))
    shutil.copy(f"{good}.timmx.json", f"{path}.timmx.json")
    backend = CoreMLBackend()
    assert verify(backend, path).status == "verified"
    change(path)
    refresh_record(path)
    verdict = verify(backend, path)
    assert verdict.status == "failed", verdict
