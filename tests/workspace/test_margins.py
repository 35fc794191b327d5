"""The report of `--margins` sees bounds that are nearly broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import docrun
import pytest
from margins import bounds_in

CASES = [
    ("snr >= 19.5", "19.76 >= 19.5", "measured", 0.26, "dB"),
    ("snr > 17", "np.float64(20.0) > 17", "measured", 3.0, "dB"),
    ("(row.snr_db or 0) > 100", "(120.5 or 0) > 100", "measured", 20.5, "dB"),
    ("size < 0.4 * plain", "30 < (0.4 * 100)", "measured", 0.25, "%"),
    ("clock() - start < 5", "(12.0 - 10.0) < 5", "measured", 0.6, "%"),
    ("x == approx(1, abs=1)", "1.5 == 1 ± 1", "measured", 0.5, "%"),
    ("count >= 9", "10 >= 9\n +  where 10 = sum([])", "integers", 0.1, "%"),
]


@pytest.mark.parametrize(("original", "shown", "kind", "room", "unit"), CASES)
def test_bounds_are_read(original: str, shown: str, kind: str, room: float, unit: str) -> None:
    (bound,) = bounds_in(original, shown, "here:1")
    assert (bound.kind, bound.unit) == (kind, unit)
    assert bound.room == pytest.approx(room)


@pytest.mark.parametrize("shown", ["'a' < 'b'", "[1] == [1]", "1 in [1, 2]", "not a program"])
def test_what_compares_no_numbers_is_none(shown: str) -> None:
    assert not list(bounds_in(shown, shown, "here:1"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_tells_of_its_bounds(tmp_path: Path, workers: str) -> None:
    """In processes of their own, too; the closest first."""
    (tmp_path / "conftest.py").write_text(
        "from margins import add_option, configure\n\n"
        "def pytest_addoption(parser):\n    add_option(parser)\n\n"
        "def pytest_configure(config):\n    configure(config)\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_far():\n    snr = 90.0\n    assert snr > 80\n\n"
        "def test_near():\n    snr = 81.0\n    assert snr > 80\n"
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nenable_assertion_pass_hook = true\n"
        f"pythonpath = {docrun.ROOT / 'tests/support'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "--margins", "found.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / "found.txt").read_text().splitlines()
    assert rows[0] == "# Measured figures: 2"
    assert rows[1].startswith("close    1.00 dB  test_it.py:7")
    assert rows[2].lstrip().startswith("10.00 dB  test_it.py:3")
