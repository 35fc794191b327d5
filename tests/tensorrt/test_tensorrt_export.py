"""Engines are built where no GPU is, and what can be said of them is said."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import fault_trials
import faults
import numpy as np
import onnx
import onnxruntime
import pytest

import timmx_core
from timmx_core import api
from timmx_core.errors import (
    ArtifactError,
    ExportError,
    PluginError,
    RequestError,
    VerificationError,
)
from timmx_core.files.inspection import snippet as make_snippet
from timmx_core.testing import ClosedManager, manager_of
from timmx_onnx.backend import OnnxBackend
from timmx_tensorrt import gpu
from timmx_tensorrt.backend import TensorRtBackend
from timmx_tensorrt.plan import read_header
from timmx_tensorrt.rtx import TensorRtRtxBackend

pytest.importorskip("tensorrt_rtx", reason="no package of tensorrt-rtx for this machine")

TIMMX = Path(sys.executable).with_name("timmx")
SMALL: dict[str, Any] = {"input_size": (3, 64, 64), "num_classes": 10}
MODEL = "test_resnet"
# The others are found in the same place, by timmx-onnx's own tests of all of them.
SAMPLE = ("output constant", "RGB and BGR swapped", "wrong mean and std", "output x 1.01")


def exported(
    manager: ClosedManager, path: Path, format: str = "tensorrt-rtx", **options: Any
) -> timmx_core.ExportResult:
    """A small model, calibrated on noise where its precision wants that."""
    if options.get("precision") in ("int8", "fp8"):
        options["random_calibration"] = True
    return api.export(format, MODEL, output=path, manager=manager, **SMALL, **options)


def _has_gpu() -> bool:
    try:
        gpu.find()
    except gpu.NoGpuError:
        return False
    return True


without_gpu = pytest.mark.skipif(_has_gpu(), reason="it is about machines without a GPU")


@pytest.fixture(scope="module")
def manager() -> ClosedManager:
    return manager_of(TensorRtRtxBackend(), TensorRtBackend(), OnnxBackend())


@pytest.fixture(scope="module")
def engine(manager: ClosedManager, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small engine with a dynamic batch, and its record."""
    path = tmp_path_factory.mktemp("engine") / "model.engine"
    exported(manager, path, dynamic_batch=True)
    return path


@without_gpu
def test_the_command_says_what_was_verified_and_what_was_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [TIMMX, "tensorrt-rtx", "resnet18", "--dynamic-batch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "verdict not verifiable here: there is no NVIDIA driver here" in said
    assert "not of the file, but of 'ONNX given to the builder': SNR" in said
    assert "the engine takes up to 64 images; --batch-max N changes that" in said
    assert "the engine is for sm80, sm86, sm89, sm120, sm121" in said
    assert "numbers fp32: weights float32, activations float32" in said
    record = json.loads((tmp_path / "resnet18.engine.timmx.json").read_text())
    rows = record["verdict"]["measurements"]
    assert {row["comparison"] for row in rows} == {"ONNX given to the builder"}
    assert all(row["status"] == "passed" and row["snr_db"] > 90 for row in rows)
    manifest = record["manifest"]
    assert manifest["inputs"][0]["shape"][0] == [1, 1, 64]
    report = manifest["report"]
    assert report["built"]["targets"] == ["sm80", "sm86", "sm89", "sm120", "sm121"]
    assert report["built"]["library"] == manifest["versions"]["tensorrt-rtx"]
    assert report["layers"] == sum(report["kinds"].values()) > 50
    assert report["kinds"]["convolution"] == 20
    assert read_header(tmp_path / "resnet18.engine").version == report["built"]["library"]


@without_gpu
def test_it_can_be_inspected_and_verified_later(engine: Path, manager: ClosedManager) -> None:
    inspection = api.inspect(engine, manager=manager)
    assert inspection.format == "tensorrt-rtx"
    assert inspection.intact
    assert not inspection.embedded  # the engine is as TensorRT's own programs want it
    assert engine.read_bytes().startswith(b"vtrt")
    assert api.verify(engine, manager=manager).status == "not verifiable here"
    assert "execute_async_v3" in timmx_core.snippet(inspection)


@without_gpu
def test_whoever_needs_a_verdict_gets_an_error_and_no_file(
    manager: ClosedManager, tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match="no NVIDIA driver"):
        exported(manager, tmp_path / "model.engine", require_verified=True)
    assert list(tmp_path.iterdir()) == []


@without_gpu
def test_it_is_told_before_anything_is_built(engine: Path, tmp_path: Path) -> None:
    required = subprocess.run(
        [TIMMX, "tensorrt-rtx", MODEL, "--require-verified"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert required.returncode == 7
    assert required.stderr.startswith("error: not verifiable here: there is no NVIDIA driver here")
    assert list(tmp_path.iterdir()) == []
    for words, code in (([], 0), (["--require-verified"], 7)):
        done = subprocess.run([TIMMX, "verify", engine, *words], capture_output=True, text=True)
        assert done.returncode == code
        assert done.stdout == "not verifiable here: there is no NVIDIA driver here\n"


@pytest.mark.parametrize(
    ("precision", "comparisons", "kind"),
    [
        ("tf32", {"ONNX given to the builder, in fp32"}, "float"),
        ("fp16", {"ONNX given to the builder", "in simulated fp16 arithmetic"}, "half"),
        ("bf16", {"in simulated bf16 arithmetic", "float file"}, "bf16"),
        (
            "int8",
            {"ONNX given to the builder", "in simulated int8 arithmetic", "float file"},
            "int8",
        ),
        ("fp8", {"ONNX given to the builder", "in simulated fp8 arithmetic", "float file"}, "fp8"),
    ],
)
def test_a_network_is_in_the_precision_that_was_asked_for(
    precision: str, comparisons: set[str], kind: str, manager: ClosedManager, tmp_path: Path
) -> None:
    result = exported(manager, tmp_path / "model.engine", precision=precision)
    found = {row.comparison for row in result.verdict.measurements}
    assert found - {"file"} == comparisons
    assert all(row.status == "passed" for row in result.verdict.measurements)
    assert result.manifest["report"]["types"][kind] > 5


def test_the_flag_of_tf32_is_in_the_engine(
    engine: Path, manager: ClosedManager, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    result = exported(manager, path, dynamic_batch=True, precision="tf32", verify=False)
    assert result.path is not None
    assert result.path.read_bytes() != engine.read_bytes()


def test_fewer_targets_and_less_memory(manager: ClosedManager, tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    result = exported(manager, path, target="SM_89,8.6", workspace=64, verify=False)
    assert result.manifest["report"]["built"]["targets"] == ["sm86", "sm89"]
    with pytest.raises(ExportError, match="OutOfMemory") as caught:
        api.export(
            "tensorrt-rtx",
            "resnet18",
            output=tmp_path / "large.plan",
            dynamic_batch=True,
            workspace=1,
            manager=manager,
        )
    assert "--workspace allows each layer 1 MiB" in caught.value.hint


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_the_onnx_file_alone(name: str, manager: ClosedManager, tmp_path: Path) -> None:
    """Classic TensorRT need not be here for that."""
    path = tmp_path / "a model.onnx"
    options = {"precision": "int8", "dynamic_batch": True, "batch_max": 8}
    result = exported(manager, path, name, onnx_only=True, **options)
    assert result.verdict.label == "verified (reference interpreter)"
    assert result.verdict.runner.startswith("onnxruntime")
    # The file itself, and what it is made of; not the same file a second time.
    compared = {row.comparison for row in result.verdict.measurements}
    assert compared == {"file", "in simulated int8 arithmetic", "float file"}
    assert all(row.status == "passed" for row in result.verdict.measurements)
    command, check = (shlex.split(n.partition(": ")[2]) for n in result.notes if " with: " in n)
    assert "--onnx=a model.onnx" in command
    assert "--saveEngine=a model.engine" in command
    assert check == ["timmx", "verify", "a model.engine", "--built-from", "a model.onnx"]
    assert "--noTF32" in command
    assert "--maxShapes=input:8x3x64x64" in command
    assert result.path is not None
    nodes = [node.op_type for node in onnx.load(result.path).graph.node]
    assert nodes.count("QuantizeLinear") > 5
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "input"
    again = api.verify(result.path, manager=manager)
    assert again.label == "verified (reference interpreter)"
    assert "onnxruntime.InferenceSession" in make_snippet(
        api.inspect(result.path, manager=manager), manager.backend(name)
    )
    assert again.runner == result.verdict.runner
    # The file says by itself what it is, and of which format.
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(result.path.read_bytes())
    assert api.inspect(alone, manager=manager).format == name
    assert api.verify(alone, manager=manager).label == "verified (reference interpreter)"
    with pytest.raises(ArtifactError, match=f"of onnx whose manifest says {name}"):
        api.inspect(alone, manager=manager_of(OnnxBackend()))
    spoiled = onnx.load(result.path)
    next(n for n in spoiled.graph.node if n.op_type == "Relu").op_type = "Abs"
    onnx.save(spoiled, alone)
    assert api.verify(alone, manager=manager).status == "failed"


def test_what_another_program_made_of_a_file(manager: ClosedManager, tmp_path: Path) -> None:
    """It is held against what the file says, as an engine is that trtexec built of it."""
    source, made = tmp_path / "model.onnx", tmp_path / "simplified.onnx"
    exported(manager, source, "tensorrt", onnx_only=True, verify=False)
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, made)
    assert api.verify(made, manager=manager).status == "inconclusive"
    verdict = api.verify(made, manager=manager, built_from=source)
    assert verdict.label == "verified (reference interpreter)"
    assert verdict.probes == 8
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Abs"
    onnx.save(model, made)
    assert api.verify(made, manager=manager, built_from=source).status == "failed"
    with pytest.raises(RequestError, match="says of itself what it is"):
        api.verify(source, manager=manager, built_from=source)
    engine = tmp_path / "model.engine"
    for content, reason in ((b"", "is empty"), (b"vtrt1234", "is an engine of TensorRT-RTX")):
        engine.write_bytes(content)
        verdict = api.verify(engine, manager=manager, built_from=source)
        assert verdict.status == "failed"
        assert reason in verdict.reason
    engine.write_bytes(b"of trtexec")
    if not _has_gpu():
        verdict = api.verify(engine, manager=manager, built_from=source)
        assert verdict.status == "not verifiable here"
    with pytest.raises(RequestError, match=r"which runs \.engine or \.plan or \.onnx, and not"):
        api.verify(_renamed(engine, ".bin"), manager=manager, built_from=source)
    with pytest.raises(ArtifactError, match="does not exist"):
        api.verify(tmp_path / "none.engine", manager=manager, built_from=source)
    source.write_bytes(made.read_bytes())
    with pytest.raises(RequestError, match=r"--built-from .* is not the file that was exported"):
        api.verify(made, manager=manager, built_from=source)


def _renamed(path: Path, suffix: str) -> Path:
    return path.rename(path.with_suffix(suffix))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_the_onnx_file_is_one_that_older_releases_read(
    precision: str, manager: ClosedManager, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    exported(manager, path, "tensorrt", onnx_only=True, precision=precision, verify=False)
    model = onnx.load(path)
    (opset,) = model.opset_import
    assert opset.version == (22 if precision == "bf16" else 20)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("precision", "verdict", "reason"),
    [
        ("fp8", "verified (reference interpreter)", ""),
        ("bf16", "not verifiable here", "onnxruntime has no kernels for model.onnx"),
    ],
)
def test_an_onnx_file_of_types_that_onnxruntime_hardly_has(
    precision: str, verdict: str, reason: str, manager: ClosedManager, tmp_path: Path
) -> None:
    result = exported(manager, tmp_path / "model.onnx", onnx_only=True, precision=precision)
    assert result.verdict.label == verdict
    assert result.verdict.reason == reason
    body = manager.backend("tensorrt-rtx").snippet(result.manifest)
    if precision == "bf16":
        assert body is None
    else:
        assert body is not None
        plain = exported(manager, tmp_path / "plain.onnx", "onnx", verify=False)
        x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
        found: dict[str, Any] = {"path": str(result.path), "x": x}
        exec(body, found)
        (wanted,) = onnxruntime.InferenceSession(str(plain.path)).run(None, {"input": x})
        # With all of onnxruntime's optimisations it was another answer altogether.
        assert np.corrcoef(found["outputs"][0].ravel(), wanted.ravel())[0, 1] > 0.9
    rows = [row for row in result.verdict.measurements if row.comparison != "file"]
    assert {row.comparison for row in rows} == {
        f"in simulated {precision} arithmetic",
        "float file",
    }
    assert all(row.status == "passed" for row in rows)


@without_gpu
def test_an_engine_without_its_record_or_with_a_bad_one(
    engine: Path, manager: ClosedManager, tmp_path: Path
) -> None:
    failed = tmp_path / "failed.engine"
    failed.write_bytes(engine.read_bytes())
    record = json.loads(engine.with_name("model.engine.timmx.json").read_text())
    record["verdict"] |= {"status": "failed", "reason": "-5.8 dB, below 5 dB"}
    failed.with_name("failed.engine.timmx.json").write_text(json.dumps(record))
    verdict = api.verify(failed, manager=manager)
    assert verdict.status == "failed"
    assert "-5.8 dB" in verdict.reason
    alone = tmp_path / "alone.engine"
    alone.write_bytes(engine.read_bytes())
    with pytest.raises(ArtifactError) as caught:
        api.inspect(alone, manager=manager)
    assert "alone.engine.timmx.json is not beside it" in caught.value.message
    verdict = api.verify(alone, manager=manager)
    assert verdict.status == "inconclusive"
    assert "alone.engine.timmx.json" in verdict.reason


@pytest.mark.parametrize(
    "fault", [f for f in faults.STRUCTURAL if f.name in SAMPLE], ids=lambda fault: fault.name
)
def test_a_fault_in_what_the_builder_is_given(fault: faults.Fault, tmp_path: Path) -> None:
    """No engine with it is published, though none can be run here."""
    spoiled = fault_trials.spoiling(OnnxBackend(), inject=fault.inject)
    manager = manager_of(TensorRtRtxBackend(), spoiled)
    with pytest.raises((VerificationError, ExportError)):
        exported(manager, tmp_path / "model.engine")
    assert list(tmp_path.iterdir()) == []


def test_the_format_it_derives_from_is_missed_before_the_slow_part(tmp_path: Path) -> None:
    alone = manager_of(TensorRtRtxBackend())
    with pytest.raises(PluginError, match="'onnx'"):
        api.export("tensorrt-rtx", MODEL, output=tmp_path / "x.engine", manager=alone)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_cut_off(engine: Path, tmp_path: Path) -> None:
    whole = engine.read_bytes()
    cut = tmp_path / "cut.engine"
    cut.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match="its header says"):
        read_header(cut)
    for data in (b"", whole[:27], b"ftrt" + whole[4:]):
        cut.write_bytes(data)
        with pytest.raises(ArtifactError, match="not an engine"):
            read_header(cut)
