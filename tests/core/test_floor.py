"""`--floor`: a user accepts a lower figure, knowingly, and everything says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from faulty_formats import PoorRounding

import timmx_core
from timmx_core.cli.summary import export_lines
from timmx_core.errors import RequestError, VerificationError
from timmx_core.files.publishing import record_path
from timmx_core.results import ExportResult
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.pocket"


def export(target: Path, **options: Any) -> ExportResult:
    """By a runtime that is wrong by a thousandth: some 60 dB, where 80 are asked for."""
    return timmx_core.export(
        "pocket",
        tiny_cnn(),
        manager=manager_of(PoorRounding()),
        output=str(target),
        input_size=INPUT_SIZE,
        **options,
    )


def test_what_is_refused_for_rounding_can_be_accepted(target: Path) -> None:
    with pytest.raises(VerificationError) as refused:
        export(target)
    offered = re.search(r"--floor (\d+) accepts", refused.value.hint)
    assert offered is not None, refused.value.hint
    assert not target.exists()
    floor = float(offered[1])
    result = export(target, floor=floor)
    assert result.verdict.status == "verified"
    assert {row.floor_db for row in result.verdict.measurements} == {floor}
    assert result.manifest["precision"]["floor_limit_db"] == floor
    assert any(f"--floor lowered floors to {floor:g} dB" in line for line in export_lines(result))

    manager = manager_of(PoorRounding())
    assert timmx_core.verify(target, manager=manager).status == "verified"
    record_path(target).unlink()
    later = timmx_core.verify(target, manager=manager)
    assert later.status == "verified"
    assert {row.floor_db for row in later.measurements} == {floor}


def test_a_file_below_the_lowered_floor_fails(target: Path) -> None:
    with pytest.raises(VerificationError, match="below 75 dB"):
        export(target, floor=75)
    assert not target.exists()


def test_a_lower_floor_for_one_verification(target: Path) -> None:
    export(target, verify=False)
    manager = manager_of(PoorRounding())
    assert timmx_core.verify(target, manager=manager).status == "failed"
    assert timmx_core.verify(target, manager=manager, floor=40).status == "verified"
    with pytest.raises(RequestError, match="at least 1"):
        timmx_core.verify(target, manager=manager, floor=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"floor": 80}, "lowers nothing"),
        ({"floor": 0}, "at least 1"),
        ({"floor": -5}, "at least 1"),
        ({"floor": float("nan")}, "wants a number"),
        ({"floor": 40, "verify": False}, "makes no sense with --no-verify"),
    ],
)
def test_a_floor_that_makes_no_sense(target: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        export(target, **options)
