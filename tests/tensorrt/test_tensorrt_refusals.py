"""What cannot be done is said before torch loads, in words, with its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from timmx_core.errors import (
    CannotRunHere,
    ExportError,
    MissingDependency,
    RequestError,
    VerificationError,
)
from timmx_core.files import manifest as manifests
from timmx_core.request.options import make_request
from timmx_tensorrt import gpu
from timmx_tensorrt.backend import TensorRtBackend, own_cache
from timmx_tensorrt.builder import load_cache, plain, save_cache
from timmx_tensorrt.engines import EngineBackend
from timmx_tensorrt.library import CLASSIC, RTX, Library
from timmx_tensorrt.rtx import TensorRtRtxBackend

if TYPE_CHECKING:
    from conftest import Plug  # type: ignore[import-not-found]

TIMMX = Path(sys.executable).with_name("timmx")


def check(backend: EngineBackend, **given: Any) -> None:
    backend.check_export(make_request(backend, "resnet18", given))


def installed(monkeypatch: pytest.MonkeyPatch, *, here: bool, version: str = "10.13.0.35") -> None:
    """Whether both libraries are here, as far as timmx can see."""

    def missing(self: Library) -> None:
        raise MissingDependency(f"{self.distribution} is not installed{self.missing}", self.install)

    monkeypatch.setattr(Library, "check", (lambda self: None) if here else missing)
    monkeypatch.setattr(Library, "version", property(lambda self: version))


# ---------------------------------------------------------------- the command line


@pytest.mark.skipif(bool(CLASSIC.version), reason="classic TensorRT is here")
def test_classic_tensorrt_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [TIMMX, "tensorrt", "resnet18"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "error: tensorrt is not installed: its libraries are large" in done.stderr
    assert 'hint: pip install "timmx-tensorrt[tensorrt]"' in done.stderr
    assert "import torch" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--target", "sm86,sm90"],
            (
                "error: TensorRT-RTX builds no engines for 'sm90'\n"
                "hint: there are: sm75, sm80, sm86, sm89, sm120, sm121; "
                "timmx tensorrt builds on the GPU itself\n"
            ),
        ),
        (
            ["--target", "sm75"],
            "error: --target sm75 has no --precision fp32: it has no matrix products in float32\n",
        ),
        (
            ["--target", "sm86", "--precision", "fp8", "--random-calibration"],
            (
                "error: --target sm86 has no --precision fp8: it has no 8-bit floating point\n"
                "hint: --precision fp8 goes with sm89, sm120, sm121\n"
            ),
        ),
        (["--onnx-only"], "error: --onnx-only writes an ONNX file\nhint: name it: -o model.onnx\n"),
        (
            ["--precision", "fp16", "--calibration-method", "minmax"],
            (
                "error: --calibration-method makes no sense with --precision fp16\n"
                "hint: it is for --precision int8 or fp8\n"
            ),
        ),
        (["-o", "a.onnx"], "error: tensorrt-rtx writes an engine, and -o names an ONNX file\n"),
    ],
)
def test_a_request_that_makes_no_sense(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [TIMMX, "tensorrt-rtx", "resnet18", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_the_other_format(tmp_path: Path) -> None:
    done = subprocess.run(
        [TIMMX, "tensorrt", "resnet18", "--target", "sm89"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: no option --target\nhint: that is an option of tensorrt-rtx\n"


@pytest.mark.skipif(bool(CLASSIC.version), reason="classic TensorRT is here")
def test_doctor_tells_of_both() -> None:
    done = subprocess.run([TIMMX, "doctor", "--json"], capture_output=True, text=True)
    formats = {row["name"]: row for row in json.loads(done.stdout)["formats"]}
    assert formats["tensorrt-rtx"]["can_export"]
    assert not formats["tensorrt"]["can_export"]
    assert "tensorrt is not installed" in formats["tensorrt"]["errors"]
    assert formats["tensorrt"]["remedy"].startswith(CLASSIC.install)  # as an export says


# ---------------------------------------------------------------- the machine


@pytest.mark.usefixtures("unplugged")
def test_classic_tensorrt_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, here=True)
    with pytest.raises(ExportError, match="builds an engine on the GPU that it is for") as caught:
        check(TensorRtBackend())
    assert caught.value.exit_code == 6
    assert "--onnx-only" in caught.value.hint
    check(TensorRtBackend(), onnx_only=True, output="model.onnx")  # that needs none


@pytest.mark.usefixtures("unplugged")
def test_who_lacks_library_and_gpu_is_told_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, here=False)
    with pytest.raises(MissingDependency, match="; and there is no NVIDIA driver here") as caught:
        check(TensorRtBackend())
    assert "here: --onnx-only -o model.onnx, or timmx tensorrt-rtx" in caught.value.hint
    check(TensorRtBackend(), onnx_only=True, output="model.onnx")  # that needs neither


def test_what_no_runtime_has_is_not_converted_for_whoever_needs_a_verdict() -> None:
    given = {"onnx_only": True, "output": "model.onnx", "precision": "bf16"}
    check(TensorRtBackend(), **given)
    with pytest.raises(VerificationError, match="no kernels for bf16") as caught:
        check(TensorRtBackend(), **given, require_verified=True)
    assert "--built-from" in caught.value.hint


@pytest.mark.parametrize("backend", [TensorRtBackend(), TensorRtRtxBackend()])
def test_a_missing_library(
    backend: EngineBackend, plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug()
    installed(monkeypatch, here=False)
    with pytest.raises(MissingDependency, match="is not installed") as caught:
        backend.check_export(None)
    assert caught.value.hint.startswith("pip install")
    check(backend, onnx_only=True, output="model.onnx")


@pytest.mark.parametrize(
    ("capability", "given", "message"),
    [
        ((7, 5), {"precision": "bf16"}, "has no --precision bf16: that starts with sm80"),
        ((8, 6), {"precision": "fp8", "random_calibration": True}, "that starts with sm89"),
        ((7, 5), {"hardware_compatible": True}, "--hardware-compatible starts with Ampere"),
        (
            (9, 0),
            {"hardware_compatible": True, "precision": "fp8", "random_calibration": True},
            "not every GPU from Ampere on has",
        ),
        ((9, 0), {"builder_level": 6}, "the highest is 5"),
    ],
)
def test_a_card_that_cannot(
    capability: tuple[int, int],
    given: dict[str, Any],
    message: str,
    plug: Plug,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, here=True)
    plug("A card", capability)
    with pytest.raises(RequestError, match=message):
        check(TensorRtBackend(), **given)


def test_a_card_that_can(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, here=True)
    plug("NVIDIA H100", (9, 0))
    check(TensorRtBackend(), precision="bf16", hardware_compatible=True, version_compatible=True)


def test_timing_caches_are_kept_apart(plug: Plug, tmp_path: Path) -> None:
    one = own_cache(plug("NVIDIA H100 80GB/HBM3", (9, 0)), "10.13.0.35")
    names = {
        one.name,
        own_cache(plug("NVIDIA RTX A5000", (8, 6)), "10.13.0.35").name,
        own_cache(plug("NVIDIA RTX A5000", (8, 6)), "11.4.1.9").name,
    }
    assert len(names) == 3
    assert one.name == "NVIDIA_H100_80GB_HBM3-sm90-10.13.0.35-cuda13.0.cache"
    with pytest.raises(RequestError, match="is a folder"):
        check(TensorRtBackend(), timing_cache=str(tmp_path))


def test_rtx_runs_nothing_on_a_card_that_it_does_not_know(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug("NVIDIA H100", (9, 0))
    with pytest.raises(CannotRunHere, match=r"runs nothing on NVIDIA H100 \(sm90\)"):
        TensorRtRtxBackend().check_run()


class Config:
    """Of a builder, as far as timing caches go: those of another GPU are not taken."""

    def __init__(self) -> None:
        self.cache = b""

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.startswith(b"another"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Config:
        return self

    def serialize(self) -> bytes:
        return self.cache + b"measured "


def test_a_timing_cache_grows_from_build_to_build(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "card.cache"
    for _ in range(2):
        config = Config()
        assert load_cache(config, path) is not None
        assert save_cache(config, path) == ""
    assert path.read_bytes() == b"measured measured "
    path.write_bytes(b"another card's")
    config = Config()
    load_cache(config, path)
    assert save_cache(config, path) == ""
    assert path.read_bytes() == b"measured "
    assert [p.name for p in path.parent.iterdir()] == ["card.cache"]
    assert load_cache(Config(), None) is None
    assert "could not be kept" in save_cache(Config(), path / "below a file")


# ---------------------------------------------------------------- engines of elsewhere

HEAD = b"vtrt" + bytes(12) + (28).to_bytes(8, "little") + bytes((1, 7, 1, 116))


def with_record(folder: Path, format: str, made: dict[str, Any]) -> Path:
    """An engine's head, and as much of a record as its runner looks at."""
    path = folder / "model.engine"
    path.write_bytes(HEAD)
    record = {"manifest": {"format": format, "report": {"built": made}}}
    path.with_name("model.engine.timmx.json").write_text(json.dumps(record))
    return path


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """These records have but a manifest's report."""
    monkeypatch.setattr(manifests, "validate", lambda content, kind: None)


def test_an_rtx_engine_of_another_version_and_for_other_cards(
    plug: Plug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug("NVIDIA GeForce RTX 3090", (8, 6))
    installed(monkeypatch, here=True, version="1.8.0.5")
    path = with_record(tmp_path, "tensorrt-rtx", {"targets": ["sm89", "sm120"]})
    if not RTX.version:
        pytest.skip("no package of tensorrt-rtx for this machine")
    with pytest.raises(CannotRunHere) as caught:
        TensorRtRtxBackend().open(path, {})
    assert caught.value.message == (
        "model.engine does not run here: it was built by tensorrt-rtx 1.7.1.116, and 1.8.0.5 is "
        "installed; it is for sm89, sm120, and this is NVIDIA GeForce RTX 3090 (sm86)"
    )


MADE = {
    "library": "10.13.0.35",
    "gpu": "NVIDIA H100",
    "compute_capability": "9.0",
    "cuda": "13.0",
    "driver": "580.95.05",
    "hardware_compatible": False,
    "version_compatible": False,
}


@pytest.mark.parametrize(
    ("changed", "version", "capability", "said"),
    [
        ({}, "10.13.0.35", (9, 0), []),
        ({}, "10.14.1.48", (9, 0), ["built by TensorRT 10.13.0.35, and 10.14.1.48 is installed"]),
        ({}, "10.13.0.35", (8, 6), ["built on NVIDIA H100 (9.0), and this is A card (8.6)"]),
        (
            {"cuda": "14.1"},
            "10.13.0.35",
            (9, 0),
            ["needs CUDA 14.1, and the driver here runs 13.0"],
        ),
        ({"version_compatible": True}, "11.0.0.1", (9, 0), []),
        ({"version_compatible": True}, "10.12.0.1", (9, 0), ["and 10.12.0.1 here is older"]),
        ({"hardware_compatible": True}, "10.13.0.35", (8, 6), []),
        ({"hardware_compatible": True}, "10.13.0.35", (7, 5), ["it runs from Ampere on"]),
    ],
)
def test_a_classic_engine_elsewhere(
    changed: dict[str, Any],
    version: str,
    capability: tuple[int, int],
    said: list[str],
    plug: Plug,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = plug("A card", capability)
    installed(monkeypatch, here=True, version=version)
    found = TensorRtBackend().obstacles(tmp_path / "model.engine", MADE | changed, card)
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence


def test_the_driver_is_asked_without_torch() -> None:
    program = (
        "import sys\nfrom timmx_tensorrt import gpu\n"
        "try:\n    print(gpu.find())\nexcept gpu.NoGpuError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        expected = str(gpu.find())
    except gpu.NoGpuError as error:
        expected = str(error)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            (
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] "
                "Cannot compile operation 'node_linear' for Turing (SM75): FP32 GEMM is not "
                "supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
            ),
            "Cannot compile operation 'node_linear' for Turing (SM75): FP32 GEMM is not supported.",
        ),
        (
            (
                "[localCheckMacros.cpp::getErrorStr::132] Error Code 2: OutOfMemory (Requested "
                "size was 315174304 bytes.)"
            ),
            "OutOfMemory (Requested size was 315174304 bytes.)",
        ),
        (
            (
                "Invalid Node - node_permute\nITensor::getDimensions: Error Code 4: API Usage "
                "Error (node_permute: UINT8 is not taken. In checkType at /_src/nodeBase.cpp:456)"
            ),
            "API Usage Error (node_permute: UINT8 is not taken.)",
        ),
    ],
)
def test_what_the_library_says_without_its_sources(said: str, told: str) -> None:
    assert plain(said) == told
