"""Every fault once, for a format that is named. See `FaultSuite`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fault_trials
import faults
import pytest

import timmx_core
from timmx_core.backend import Artifact, Backend, TensorSpec
from timmx_core.errors import ArtifactError, ExportError, VerificationError
from timmx_core.files.publishing import record_path

FAILED = VerificationError.exit_code
SMALL = "test_convnext"  # timm's own for tests: depthwise and dense layers, norms, LayerScale
SIZE = (3, 64, 64)
# One block of each stage: they are alike, and conversion takes as long for each.
SMALL_OPTIONS: Mapping[str, Any] = {"input_size": SIZE, "model_kwarg": ("depths=(1,1,1,1)",)}
# By which a good file is above its floor. The structural fault that is hardest to see, an output
# x 1.01, has 40 dB by arithmetic, half of the floor of fp32: what lies at 90 or more is none, and a
# runtime whose exponential is a polynomial (98 to 100 dB) has room on any processor.
MARGIN_DB = 10.0
COSTLY = 4  # of formats that sample more thinly, conversion takes long
# One layer of each kind that the model has, and each kind of fault.
LAYERS = (
    ("model.stem.0.weight", "transposed"),
    ("model.stages.0.blocks.0.conv_dw.weight", "zeroed"),
    ("model.stages.1.blocks.0.gamma", "zeroed"),
    ("model.stages.2.blocks.0.mlp.fc1.weight", "rounded to 4 bits"),
    ("model.stages.3.blocks.0.norm.weight", "zeroed"),
    ("model.head.fc.bias", "transposed"),
)

_good: dict[type, Path] = {}


class FaultSuite:
    """Every structural fault, a sample of layer faults, and faults in the finished file::

        class TestMyFormat(FaultSuite):
            backend = MyBackend()

    A format that cannot do something says which faults that rules out, and why.
    """

    backend: Backend
    model: ClassVar[str] = SMALL
    options: ClassVar[Mapping[str, Any]] = SMALL_OPTIONS
    impossible: ClassVar[Mapping[str, str]] = {}  # fault, option or "embedding" -> reason
    # Of the faults before conversion each n-th, of each format others: what finds them is core's.
    # `benchmarks/faults.py` tries all.
    sampled: ClassVar[int] = 4
    refused: ClassVar[frozenset[str]] = frozenset()  # faults with which the file does not run

    @pytest.fixture
    def good(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A good file of this format, in a folder of its own; not to be changed."""
        kind = type(self)
        if kind not in _good:
            folder = tmp_path_factory.mktemp("good")
            _good[kind] = self.export(folder, verify=False, labels="imagenet-1k")
        return _good[kind]

    @pytest.fixture
    def file(self, good: Path, tmp_path: Path) -> Path:
        """A copy of it, with its record, to be spoiled."""
        shutil.copytree(good.parent, tmp_path / "file")
        return tmp_path / "file" / good.name

    @property
    def name(self) -> str:
        return f"model{self.backend.suffixes[0]}"

    def export(self, folder: Path, backend: Backend | None = None, **given: Any) -> Path:
        options = {**self.options, **given}
        return fault_trials.export(
            backend or self.backend, self.model, folder / self.name, **options
        )

    def require(self, name: str, options: Mapping[str, Any]) -> None:
        for word in (name, *options):
            if word in self.impossible:
                pytest.skip(f"{self.backend.name}: {self.impossible[word]}")

    def sample(self, number: int) -> None:
        if (number + sum(self.backend.name.encode())) % self.sampled:
            pytest.skip(f"{self.backend.name}: one of {self.sampled} is tried here")

    # ------------------------------------------------------------ between model and file

    @pytest.mark.parametrize(
        "options",
        [{}, {"softmax": True}, {"dynamic_batch": True}, {"features": True}],
        ids=["plain", "softmax", "dynamic batch", "features"],
    )
    def test_without_a_fault_it_is_far_above_the_floor(
        self, options: Mapping[str, Any], tmp_path: Path
    ) -> None:
        """Or what follows would prove nothing."""
        self.require("", options)
        if self.sampled > COSTLY and not {"dynamic_batch", "features"} & set(options):
            pytest.skip(f"{self.backend.name}: its contract has such files")
        path = self.export(tmp_path, **options)
        for verdict in (
            fault_trials.record_of(path)["verdict"],
            fault_trials.verify(self.backend, path).to_json(),
        ):
            assert verdict["status"] == "verified", verdict["reason"]
            margins = [m["snr_db"] - m["floor_db"] for m in verdict["measurements"]]
            assert min(margins) >= MARGIN_DB

    @pytest.mark.parametrize("fault", faults.STRUCTURAL, ids=lambda fault: fault.name)
    def test_a_structural_fault_is_caught(self, fault: faults.Fault, tmp_path: Path) -> None:
        """By the export, which publishes nothing; and by `verify` in the file itself."""
        self.require(fault.name, fault.options)
        self.sample(faults.STRUCTURAL.index(fault))
        trial = fault_trials.try_fault(self.backend, self.model, fault, tmp_path, **self.options)
        assert trial.caught, trial
        # A runtime that refused the file would have refused a good one, too.
        assert trial.measured or fault.name in self.refused, trial

    @pytest.mark.parametrize(("weight", "kind"), LAYERS)
    def test_a_spoiled_layer_is_caught(self, weight: str, kind: str, tmp_path: Path) -> None:
        self.sample(LAYERS.index((weight, kind)))
        fault = faults.in_layer(weight, kind)
        trial = fault_trials.try_fault(self.backend, self.model, fault, tmp_path, **self.options)
        assert trial.caught, trial
        assert trial.measured, trial

    # ------------------------------------------------------------ what the file says of itself

    def test_an_unverified_file_is_found_out_later(self, tmp_path: Path) -> None:
        fault = next(fault for fault in faults.STRUCTURAL if fault.name == "output x 1.01")
        faulty = fault_trials.spoiling(self.backend, inject=fault.inject)
        path = self.export(tmp_path, faulty, verify=False)
        assert fault_trials.record_of(path)["verdict"]["status"] == "not verified"
        assert fault_trials.code_of(self.backend, path) == FAILED

    @pytest.mark.parametrize("fault", faults.MANIFEST, ids=lambda fault: fault.name)
    def test_a_manifest_that_was_changed(self, fault: faults.ManifestFault, file: Path) -> None:
        """The record beside it says otherwise; without one, the manifest's own digest does."""
        backend = fault_trials.spoiling(self.backend, found=fault.of)
        record = fault_trials.record_of(file)
        wrong = record | {"manifest": fault.of(record["manifest"])}
        if self.backend.read(file) is not None:
            assert fault_trials.code_of(backend, file) == FAILED
        fault_trials.write_record(file, wrong)
        assert fault_trials.code_of(self.backend, file) == FAILED
        assert fault_trials.code_of(backend, file) == FAILED
        record_path(file).unlink()
        assert fault_trials.code_of(backend, file) == FAILED

    @pytest.mark.parametrize(
        "fault", [fault for fault in faults.MANIFEST if fault.found], ids=lambda fault: fault.name
    )
    def test_a_manifest_that_was_wrong_from_the_start(
        self, fault: faults.ManifestFault, file: Path
    ) -> None:
        """Its digest fits, and so does the record: the measure or a contradiction must tell."""
        backend = fault_trials.spoiling(self.backend, found=fault.signed)
        record = fault_trials.record_of(file)
        fault_trials.write_record(file, record | {"manifest": fault.signed(record["manifest"])})
        assert fault_trials.code_of(backend, file) == FAILED

    def test_labels_of_ones_own(self, tmp_path: Path) -> None:
        """There is no list to compare with, but the record and the manifest's digest."""
        labels = tmp_path / "labels.txt"
        labels.write_text("".join(f"class {i}\n" for i in range(1000)))
        fault = faults.MANIFEST[0]
        faulty = fault_trials.spoiling(self.backend, embedded=fault.of)
        path = self.export(tmp_path / "out", faulty, verify=False, labels=str(labels))
        if self.backend.read(path) is None:
            record = fault_trials.record_of(path)
            fault_trials.write_record(path, record | {"manifest": fault.of(record["manifest"])})
        assert fault_trials.code_of(self.backend, path) == FAILED
        if self.backend.read(path) is not None:
            record_path(path).unlink()
            assert fault_trials.code_of(self.backend, path) == FAILED

    def test_a_wrong_size_stated_by_the_plugin(self, tmp_path: Path) -> None:
        def misstate(artifact: Artifact) -> Artifact:
            return replace(artifact, inputs=(_doubled(artifact.inputs[0]),))

        with pytest.raises(VerificationError, match="input is"):
            self.export(tmp_path / "out", fault_trials.spoiling(self.backend, artifact=misstate))
        assert not (tmp_path / "out").exists()

    def test_a_manifest_that_does_not_come_back(self, tmp_path: Path) -> None:
        self.require("embedding", {})
        spoil = faults.MANIFEST[-1].of
        faulty = fault_trials.spoiling(self.backend, embedded=spoil, hidden=False)
        with pytest.raises(ExportError, match="read back"):
            self.export(tmp_path / "out", faulty, verify=False)
        assert not (tmp_path / "out").exists()

    # ------------------------------------------------------------ the finished file

    def test_a_truncated_file(self, file: Path) -> None:
        """Its record knows it otherwise; without one there may be nothing to read any more."""
        parts = [file] if file.is_file() else [p for p in file.rglob("*") if p.is_file()]
        largest = max(parts, key=lambda part: part.stat().st_size)
        os.truncate(largest, largest.stat().st_size * 2 // 3)
        assert fault_trials.code_of(self.backend, file) == FAILED
        record_path(file).unlink()
        assert fault_trials.code_of(self.backend, file) in (FAILED, ArtifactError.exit_code)

    def test_flipped_bits_of_weights(self, file: Path) -> None:
        """Found by the digest; by the measure where the record was refreshed, or is gone."""
        own = {"precision", *(option.name for option in self.backend.options)}
        shared = {name: value for name, value in self.options.items() if name not in own}
        loaded = timmx_core.load_model(self.model, **shared)
        weights = list(faults.layer_weights(loaded.module).values())
        files = [path for path in file.parent.rglob("*") if path.is_file()]
        assert any(fault_trials.flip_weights(path, weights) for path in files)
        assert fault_trials.code_of(self.backend, file) == FAILED
        fault_trials.refresh_record(file)
        assert fault_trials.code_of(self.backend, file) == FAILED
        if self.backend.read(file) is not None:
            record_path(file).unlink()
            assert fault_trials.code_of(self.backend, file) == FAILED

    def test_the_file_of_other_weights(self, file: Path, tmp_path: Path) -> None:
        """Another file's record beside it, and digests that fit."""
        other = self.export(tmp_path / "other", seed=1)
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        shutil.move(other, file)
        assert fault_trials.code_of(self.backend, file) == FAILED
        fault_trials.refresh_record(file)
        assert fault_trials.code_of(self.backend, file) == FAILED


def _doubled(port: TensorSpec) -> TensorSpec:
    """An image port of twice the size."""
    shape = tuple(d * 2 if isinstance(d, int) and d > 3 else d for d in port.shape)
    assert shape != port.shape
    return replace(port, shape=shape)
