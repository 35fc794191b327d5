"""A few rows of a format's table of reference architectures, measured again.

    class TestRowsOfMine(ReferenceRows):
        format = "mine"

The table comes from `benchmarks/reference.py`, and so does what is compared with it here.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import warm_command

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Of rounding errors, on another machine with other releases: two bits. fp16 where fp32 is meant,
# or weights in fewer bits, change a row by 50 dB.
TOLERANCE_DB = 12.0


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", BENCHMARKS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ReferenceRows:
    """Whether the table still holds."""

    format: ClassVar[str]
    # Small ones, of the kinds that converters treat differently.
    labels: ClassVar[tuple[str, ...]] = ("mobilenetv3_small_100", "vit_tiny_patch16_224")

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls) -> dict[str, Any]:
        """The committed rows."""
        path = BENCHMARKS / "results" / f"reference-{cls.format}.json"
        rows: dict[str, Any] = json.loads(path.read_text())["rows"]
        return rows

    def test_the_table_is_whole(self, table: dict[str, Any]) -> None:
        """Every case has its row, and was verified or refused with a reason."""
        assert list(table) == [label for label, _, _ in _reference().CASES]
        for label, row in table.items():
            good = row["status"].startswith("verified") and row["snr_db"] >= row["floor_db"]
            assert good or row["reason"], label

    @pytest.mark.slow
    def test_rows_are_as_they_were(self, table: dict[str, Any]) -> None:
        """Or the documentation shows figures of the past."""
        reference = _reference()
        timmx = str(warm_command.folder_of_command() / "timmx")
        for label, model, options in reference.CASES:
            if label not in self.labels:
                continue
            row, now = table[label], reference.run_case(self.format, model, options, 600, [timmx])
            assert now["status"] == row["status"], now["reason"]
            if row.get("snr_db") is None:  # refused, then as now
                continue
            exact = {now["snr_db"], row["snr_db"]} & {200.0}  # or one rounding away from it
            assert exact or abs(now["snr_db"] - row["snr_db"]) < TOLERANCE_DB, label
