"""What is shown of a converter's output when an export fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from timmx_core.process.captured_output import Noise


def test_progress_bars_tell_nothing_of_a_failure(capfd: object) -> None:
    with Noise() as noise:
        os.write(2, b"the operator is unknown\n")
        os.write(2, b"\rRunning:  50%|#####     | 5/10 [00:01<00:00]\rRunning: 100%|##########|\n")
        tail = noise.tail()
    assert tail == "the operator is unknown"


def test_a_log_is_shown_and_kept_while_it_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path))
    with Noise() as noise:
        os.write(1, b"one\n")
        assert noise.tail() == "one"
        subprocess.run([sys.executable, "-c", "print('two')"], check=True)
        os.write(2, b"three\n" + b"x" * 300 + b"\n")
        assert noise.tail().splitlines() == ["one", "two", "three", "x" * 196 + " ..."]
        kept = noise.keep("and why\n")
    assert kept is not None
    assert kept.read_text() == "one\ntwo\nthree\n" + "x" * 300 + "\nand why\n"


def test_old_logs_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMMX_HOME", str(tmp_path))
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(60):
        (folder / f"20200101-0000{number:02}-1.log").touch()
    (folder / "mine.log").touch()
    with Noise() as noise:
        os.write(1, b"one\n")
        kept = noise.keep()
    assert kept is not None
    left = sorted(path.name for path in folder.iterdir())
    assert left == [*(f"20200101-0000{n:02}-1.log" for n in range(11, 60)), kept.name, "mine.log"]


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom timmx_core.process.captured_output import Noise\n"
        "with Noise():\n    print('noise')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "TIMMX_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []
