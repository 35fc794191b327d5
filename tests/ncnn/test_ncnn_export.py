"""ncnn networks of real models, in the real runtime."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import fault_trials
import pytest
import torch
from photo_trials import classes_of_file, classes_of_timm
from testdata import Photograph

import timmx_core
from timmx_core.backend import Artifact
from timmx_core.errors import (
    ArtifactError,
    CannotRunHere,
    ExportError,
    MissingDependency,
    RequestError,
    VerificationError,
)
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn, tiny_vit, two_outputs
from timmx_ncnn.backend import NcnnBackend
from timmx_ncnn.param import BadParam, parse, read_network


def exported(folder: Path, model: Any, **options: Any) -> timmx_core.ExportResult:
    given = {"output": str(folder / "model.param")} | options
    if not isinstance(model, str):
        given = {"input_size": INPUT_SIZE} | given
    return timmx_core.export("ncnn", model, **given)


# ---------------------------------------------------------------- the pair of files


def test_the_ports_have_names(tmp_path: Path) -> None:
    result = exported(tmp_path, two_outputs())
    assert result.verdict.status == "verified"
    assert result.path is not None
    network = read_network(result.path)
    assert network.inputs == ["input"]
    assert sorted(network.outputs) == ["output_0", "output_1"]
    assert {p.name for p in tmp_path.iterdir()} == {
        *("model.param", "model.bin", "model.param.timmx.json")
    }


class Deciding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_cnn()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(image)
        return result if result.abs().sum() > 0 else result * 2


def test_a_decision_that_a_trace_froze_is_told(tmp_path: Path) -> None:
    result = exported(tmp_path, Deciding())
    line = Deciding.forward.__code__.co_firstlineno + 2
    assert any(f"(test_ncnn_export.py:{line} forward)" in note for note in result.notes)


def test_fp16_stores_halves(tmp_path: Path) -> None:
    sizes = []
    for precision in ("fp32", "fp16"):
        result = exported(tmp_path, tiny_cnn(), precision=precision, overwrite=True)
        assert result.verdict.status == "verified"
        sizes.append((tmp_path / "model.bin").stat().st_size)
    assert {m.comparison for m in result.verdict.measurements} == {"file", "float file"}
    assert sizes[1] < 0.7 * sizes[0]


def test_the_manifest_stands_behind_what_ncnn_reads(tmp_path: Path) -> None:
    result = exported(tmp_path, tiny_cnn(), verify=False)
    path = result.path
    assert path is not None
    whole = path.read_bytes()
    network, manifest = parse(whole), NcnnBackend().read(path)
    assert manifest is not None
    assert parse(network.text().encode()) == network
    for cut in (len(whole) - 1, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match="not a whole ncnn network"):
            NcnnBackend().read(path)
    path.write_text(network.text())
    assert NcnnBackend().read(path) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not start with"),
        ("7767517\nmany layers\n", "cannot be read"),
        ("7767517\n999999999 1\n", "states 999999999 layers"),
        ("7767517\n2 1\nInput in 0 1 a\n", "1 of 2 layers"),
        ("7767517\n1 1\nInput in 0 3 a\n", "cut off"),
        ("7767517\n1 1\nInput in -1 1 a\n", "cut off"),
    ],
)
def test_networks_that_are_none(text: str, why: str) -> None:
    with pytest.raises(BadParam, match=why):
        parse(text.encode())


# ---------------------------------------------------------------- what cannot be done


@pytest.mark.own_process
def test_a_network_that_kills_the_runtime_fails(tmp_path: Path) -> None:
    """ncnn looks for the second input of a sum where there is none, which may be its end."""

    def mutilate(artifact: Artifact) -> Artifact:
        text = artifact.primary.read_text()
        found = re.search(r"^(BinaryOp +\S+ +)2 1 (\S+) \S+", text, re.MULTILINE)
        assert found is not None
        text = text.replace(found[0], f"{found[1]}1 1 {found[2]}")
        artifact.primary.write_text(text)
        return replace(artifact)

    faulty = fault_trials.spoiling(NcnnBackend(), artifact=mutilate)
    target = tmp_path / "out" / "model.param"
    with pytest.raises(VerificationError) as caught:
        fault_trials.export(
            faulty, tiny_cnn(), target, input_size=INPUT_SIZE, keep_failed=str(tmp_path / "kept")
        )
    verdict = caught.value.verdict
    assert verdict is not None
    assert verdict.status == "failed"
    # It reads what lies beside: that ends the process, or is no input and gives no output.
    reasons = ("the runtime died with SIG", "ncnn cannot compute output")
    assert verdict.reason.startswith(reasons)
    assert not target.parent.exists()
    later = fault_trials.verify(NcnnBackend(), tmp_path / "kept" / "model.param")
    assert later.status == "failed"
    assert later.reason.startswith(reasons)


def test_pnnx_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pnnx

    fake = tmp_path / "pnnx"
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(fake))
    for script, why in (
        ("kill -SEGV $$", "pnnx died with SIGSEGV on this model"),
        ("exit 7", "pnnx cannot convert the model: exit code 7"),
        ("true", "pnnx left no network"),
    ):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
        with pytest.raises(ExportError, match=why):
            exported(tmp_path / "out", tiny_cnn())
        assert not (tmp_path / "out").exists()


def test_what_ncnn_has_no_layer_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, tiny_vit())
    assert "ncnn has no layer for Tensor.reshape" in caught.value.message
    assert "unsupported" in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7767517\n1 1\nInput in 0 1 input\n", "no input or no output"),
        ("7767517\n2 2\nInput in 0 1 input\nWarp w 1 1 input output\n", "ncnn cannot load x.param"),
        ("not a network", "is not an ncnn network"),
    ],
)
def test_networks_that_ncnn_would_not_survive(tmp_path: Path, text: str, why: str) -> None:
    """With no output to ask for, asking kills the process."""
    path = tmp_path / "x.param"
    path.write_text(text)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=why):
        NcnnBackend().open(path, {})


def test_weights_that_are_missing_or_short(tmp_path: Path) -> None:
    path = exported(tmp_path, tiny_cnn(), verify=False).path
    assert path is not None
    weights = tmp_path / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"ncnn cannot load model\.bin"):
        NcnnBackend().open(path, {})
    weights.unlink()
    with pytest.raises(ArtifactError, match="is missing beside"):
        NcnnBackend().open(path, {})


@pytest.mark.parametrize("given", [{"batch_size": 2}, {"uint8_input": True}])
def test_what_a_network_does_not_take_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="an ncnn network takes"):
        exported(tmp_path, "resnet18", **given)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pnnx is not installed"):
        NcnnBackend().check_export(None)
    with pytest.raises(CannotRunHere, match="ncnn is not installed"):
        NcnnBackend().check_run()


# ---------------------------------------------------------------- real weights


def test_photographs_are_classified_as_by_timm(
    tmp_path: Path, lite0_dir: Path, photographs: list[Photograph]
) -> None:
    expected = classes_of_timm(lite0_dir, photographs)
    result = exported(tmp_path, f"local-dir:{lite0_dir}", pretrained=True, precision="fp16")
    assert result.verdict.status == "verified"
    assert result.path is not None
    assert classes_of_file(result.path, photographs) == expected
