"""What the trials asked of the contract: deriving, absorbing, and companions with fixed names."""

from __future__ import annotations

from pathlib import Path

import pytest
from layered_formats import (
    AbsorbingBackend,
    CalibratedPocket,
    PairBackend,
    SealedBackend,
    WrongSource,
)
from pocket_format import PocketBackend

from timmx_core import api
from timmx_core.backend import Backend
from timmx_core.errors import OutputError, PluginError, VerificationError
from timmx_core.results import ExportResult
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn


def export(output: Path, *backends: Backend, **given: object) -> ExportResult:
    options = {"input_size": INPUT_SIZE, **given}
    return api.export(
        backends[0].name,
        tiny_cnn(),
        output=output,
        manager=manager_of(*backends),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("pocket", [PocketBackend, CalibratedPocket])
def test_a_format_that_derives_has_its_source_measured(
    tmp_path: Path, pocket: type[PocketBackend]
) -> None:
    result = export(tmp_path / "model.sealed", SealedBackend(), pocket(), dynamic_batch=True)
    assert result.verdict.status == "not verifiable here"
    assert result.verdict.reason == "nobody here has the key"
    rows = result.verdict.measurements
    assert {row.comparison for row in rows} == {SealedBackend.source}
    assert all(row.status == "passed" for row in rows)
    assert len({row.batch for row in rows}) > 1
    published = sorted(p.name for p in tmp_path.iterdir())
    assert published == ["model.sealed", "model.sealed.timmx.json"]


def test_a_further_comparison_can_fail_what_cannot_run_here(tmp_path: Path) -> None:
    other = api.export(
        "pocket",
        tiny_cnn(seed=1),
        input_size=INPUT_SIZE,
        output=tmp_path / "other.pocket",
        verify=False,
        manager=manager_of(PocketBackend()),
    )
    backend = WrongSource()
    assert other.path is not None
    backend.other = other.path
    folder = tmp_path / "out"
    with pytest.raises(VerificationError, match="another pocket file, output at"):
        export(folder / "model.sealed", backend, PocketBackend())
    assert not folder.exists()


def test_the_format_to_derive_from_is_missed_before_the_slow_part(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'pocket'"):
        export(tmp_path / "model.sealed", SealedBackend())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixels", [False, True])
def test_what_a_format_absorbs_is_in_the_ports_of_its_file(tmp_path: Path, pixels: bool) -> None:
    result = export(
        tmp_path / "model.pocket",
        AbsorbingBackend(),
        normalize=True,
        uint8_input=pixels,
        nhwc_input=pixels,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    assert result.verdict.status == "verified"
    port = result.manifest["inputs"][0]
    assert port["mean"] == []
    assert port["layout"] == ("NHWC" if pixels else "NCHW")
    assert port["dtype"] == ("uint8" if pixels else "float32")


def test_a_companion_in_the_way_is_found_before_the_slow_part(tmp_path: Path) -> None:
    (tmp_path / "model.notes").write_text("somebody's")
    with pytest.raises(OutputError, match=r"model\.notes exists already"):
        export(tmp_path / "model.pocket", PairBackend())
    assert (tmp_path / "model.notes").read_text() == "somebody's"
    with pytest.raises(OutputError, match=r"model\.notes does not belong to model\.pocket"):
        export(tmp_path / "model.pocket", PairBackend(), overwrite=True)
    assert (tmp_path / "model.notes").read_text() == "somebody's"
    (tmp_path / "model.notes").unlink()
    result = export(tmp_path / "model.pocket", PairBackend(), overwrite=True, verify=False)
    assert set(result.record["members"]) == {"model.pocket", "model.notes"}
    assert (tmp_path / "model.notes").read_text() == "notes"
