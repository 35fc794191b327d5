"""Whatever the runtime does to its process is a finding about the file, told in a line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from troubled_formats import VARIABLE, TroubledBackend

from timmx_core import api
from timmx_core.errors import VerificationError
from timmx_core.testing import manager_of
from timmx_core.testing.models import INPUT_SIZE, tiny_cnn
from timmx_core.verification.worker import MEMORY_VARIABLE, Outcome, Worker

PARENT = """
import sys, time
from troubled_formats import TroubledBackend
from timmx_core.verification.worker import Worker
worker = Worker(TroubledBackend())
print(worker._process.pid, flush=True)
time.sleep(600)
"""


def run(folder: Path, *, timeout: float = 30, batches: tuple[int, ...] = (1,)) -> Outcome:
    inputs = {"input": np.arange(20, dtype=np.float32).reshape(5, 4)}
    with Worker(TroubledBackend()) as worker:
        return worker.run(folder / "file", inputs, batches, {}, folder / "job", timeout)


def test_every_row_comes_back_at_every_batch_size(tmp_path: Path) -> None:
    """Five probes, in as many batches as it takes; the last is filled up from the front."""
    outcome = run(tmp_path, batches=(1, 2, 7))
    assert (outcome.status, outcome.runner, outcome.kind) == ("ok", "troubled 1.0", "native")
    assert outcome.outputs is not None
    answers = 2 * np.arange(20, dtype=np.float32).reshape(5, 4)
    for batch, rows in ((1, 5), (2, 6), (7, 7)):
        expected = answers[np.arange(rows) % 5]
        assert np.array_equal(outcome.outputs[batch]["output"], expected)


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("segfault", "failed", "died with SIGSEGV"),
        ("exit", "failed", "ended with exit code 3"),
        ("raise", "failed", "RuntimeError: kernel 7 is not there"),
        ("scalar", "failed", "output has shape () for a batch of 1"),
        ("pickle", "failed", "the runtime refused the file"),
        ("broken file", "failed", "the file is cut off"),
        ("no device", "cannot run", "there is no such card here"),
        ("no library", "cannot run", "its library is not installed"),
    ],
)
def test_trouble_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, status: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, trouble)
    outcome = run(tmp_path)
    assert outcome.status == status
    assert words in outcome.reason
    assert "\n" not in outcome.reason
    assert outcome.outputs is None


def test_a_hang_ends_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "hang")
    start = time.monotonic()
    outcome = run(tmp_path, timeout=1)
    assert (outcome.status, outcome.reason) == ("failed", "the file was still running after 1 s")
    assert time.monotonic() - start < 20


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "memory")
    monkeypatch.setenv(MEMORY_VARIABLE, "0.5")
    outcome = run(tmp_path)
    assert outcome.status == "failed"
    assert "more than 0.5 GiB of memory" in outcome.reason


def test_noise_does_not_reach_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "loud")
    assert run(tmp_path).status == "ok"
    assert capfd.readouterr().out == ""


def test_a_runtime_that_cannot_be_preloaded_is_told_when_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "no import")
    assert run(tmp_path).status == "ok"


def test_the_worker_goes_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("segfault", "SIGSEGV"), ("hang", "still running after 1 s"), ("", "dB, below 80 dB|shape")],
)
def test_it_ends_in_a_verdict_and_nothing_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, trouble)
    with pytest.raises(VerificationError, match=words) as caught:
        api.export(
            "troubled",
            tiny_cnn(),
            input_size=INPUT_SIZE,
            output=tmp_path / "model.troubled",
            verify_timeout=1 if trouble == "hang" else 30,
            manager=manager_of(TroubledBackend()),
        )
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_what_failed_is_kept_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "raise")
    with pytest.raises(VerificationError) as caught:
        api.export(
            "troubled",
            tiny_cnn(),
            input_size=INPUT_SIZE,
            output=tmp_path / "out" / "model.troubled",
            keep_failed=tmp_path / "kept",
            manager=manager_of(TroubledBackend()),
        )
    assert str(tmp_path / "kept" / "model.troubled") in caught.value.hint
    names = sorted(p.name for p in (tmp_path / "kept").iterdir())
    assert names == ["model.troubled", "model.troubled.timmx.json"]
    assert not (tmp_path / "out").exists()
