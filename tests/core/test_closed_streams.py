"""Runs whose caller closed the standard streams, as services and cron do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fake_dists import fake_dist, format_source

TIMMX = Path(sys.executable).with_name("timmx")
MODEL = "test_resnet"
ALL = "<&- >&- 2>&-"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty folder; beside it lies the format `alpha`, which prints from C as well."""
    source = format_source("alpha").replace(
        'print("converter noise")',
        'print("converter noise"); os.system("echo noise of C; echo noise of C >&2")',
    )
    fake_dist(tmp_path / "site", "timmx-alpha", "1.0", source)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(work: Path, words: str, streams: str) -> subprocess.CompletedProcess[str]:
    """`timmx` by a shell that closes streams."""
    site, home = work.parent / "site", work.parent / "home"
    return subprocess.run(
        ["sh", "-c", f'"{TIMMX}" {words} {streams}'],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(site), "TIMMX_HOME": str(home)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("streams", [">&-", "2>&-", ALL])
@pytest.mark.parametrize(("words", "told"), [("list resnet18", "resnet18"), ("--help", "Usage")])
def test_a_result_that_nobody_wants(work: Path, words: str, told: str, streams: str) -> None:
    done = run(work, words, streams)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (told in done.stdout) is (" >&-" not in f" {streams}")


@pytest.mark.parametrize("streams", ["2>&-", ALL])
def test_an_export(work: Path, streams: str) -> None:
    done = run(work, f"alpha {MODEL} -o made.alpha --json", streams)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "noise" not in done.stdout + done.stderr
    if streams == "2>&-":
        assert json.loads(done.stdout)["verdict"]["status"] == "verified"
    assert sorted(p.name for p in work.iterdir()) == ["made.alpha", "made.alpha.timmx.json"]
    # It is the archive that torch wrote, with nothing of what was printed.
    assert zipfile.ZipFile(work / "made.alpha").testzip() is None


@pytest.mark.parametrize("streams", [">&-", "2>&-", ALL])
def test_an_error(work: Path, streams: str) -> None:
    done = run(work, f"alpha {MODEL} -o wrong.suffix --json", streams)
    assert done.returncode == 2
    if streams == ">&-":
        assert done.stderr.startswith("error: alpha writes .alpha, not .suffix\n")
    if streams == "2>&-":
        assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert list(work.iterdir()) == []


def test_an_export_from_python(work: Path) -> None:
    """No command line is there to lead the streams anywhere."""
    code = (
        f"import timmx_core; r = timmx_core.export('alpha', '{MODEL}', output='made.alpha'); "
        "assert r.verdict.status == 'verified'"
    )
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" 2>&-'],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(work.parent / "site"), "TIMMX_HOME": str(work.parent)},
    )
    assert done.returncode == 0
    assert sorted(p.name for p in work.iterdir()) == ["made.alpha", "made.alpha.timmx.json"]


LOOKING = """
import os, sys
from timmx_core.process.captured_output import Noise

def streams():
    return [where(number) for number in (0, 1, 2)], len(os.listdir("/proc/self/fd"))

def where(number):
    try:
        return os.fstat(number).st_ino
    except OSError:
        return None

def say(text):
    try:
        os.write(1, text.encode())
    except OSError:
        pass

before = streams()
say("before ")
with Noise(verbose=sys.argv[1] == "verbose") as noise:
    print("noise")
    os.write(1, b"noise")
    os.write(2, b"noise")
say("after")
assert streams() == before, (before, streams())
"""


@pytest.mark.parametrize("verbose", ["verbose", "quiet"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- 2>&-", "<&- >&-", ALL])
def test_streams_are_open_and_closed_as_they_were(
    tmp_path: Path, streams: str, verbose: str
) -> None:
    script = tmp_path / "looking.py"
    script.write_text(LOOKING)
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" looking.py {verbose} {streams}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if " >&-" in f" {streams}" else "before after")
