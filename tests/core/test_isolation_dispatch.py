"""A format with an environment of its own is used as if it were here."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_dists import fake_dist
from isolated_hosts import Host, assert_told, wait_for

MODEL = "resnet18"


def exported(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_an_export_ends_with_its_path_and_a_summary(host: Host) -> None:
    done = host.ok("toast", MODEL)
    path = host.work / "resnet18.toast"
    assert done.stdout == f"{path}\n"
    assert path.read_text() == "a whole file"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("convert  ")
    assert lines[1] == "note: made up"
    assert "verdict  verified" in lines
    assert "noise" not in done.stderr
    assert "noise of a converter" in host.ok("-v", "toast", MODEL, "--overwrite").stderr


def test_every_kind_of_option_arrives_as_it_was_given(host: Host) -> None:
    words = ["--level", "7", "--mode=small", "--scales", "-1", "2.5", "--tag", "a b", "--tag=-c"]
    words += ["--no-fold", "--mean=-0.5,0.25,1e-7", "--input-size", "3", "64", "96", "--softmax"]
    words += ["--precision", "fp16", "--model-kwarg", "x='y z'", "--json", "-o", "-o.toast"]
    asked = eval(exported(host.ok("toast", MODEL, *words))["manifest"]["asked"])
    assert asked["options"] == {
        "level": 7, "mode": "small", "scales": (-1.0, 2.5), "tag": ("a b", "-c"), "fold": False,
        "cores": None,
    }  # fmt: skip
    shared = asked["shared"]
    assert shared["mean"] == (-0.5, 0.25, 1e-7)
    assert shared["input_size"] == (3, 64, 96)
    assert shared["softmax"] is True
    assert shared["model_kwarg"] == ("x='y z'",)
    assert (host.work / "-o.toast").is_file()
    plain = eval(exported(host.ok("toast", MODEL, "--json"))["manifest"]["asked"])
    assert plain["options"]["level"] == 3
    assert plain["options"]["fold"] is True
    assert plain["shared"]["mean"] is None


def test_it_runs_in_its_environment_and_finds_nothing_of_the_host(host: Host) -> None:
    (host.work / "timmx_core.py").write_text("raise SystemExit('the working folder')")
    elsewhere = {"PYTHONPATH": str(host.work / "nothing"), "PYTHONHOME": ""}
    done = host.ok("toast", MODEL, "--json", **elsewhere)
    assert str(host.home / "envs") in exported(done)["manifest"]["prefix"]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("toast",), 2, ("missing argument",)),
        (("toast", MODEL, "--levle", "1"), 2, ("no option --levle", "--level")),
        (("toast", MODEL, "--level", "0"), 2, ("--level is at least 1",)),
        (("toast", MODEL, "--device", "cuda"), 2, ("it runs on toasters",)),
        (("taost", MODEL), 3, ("did you mean toast?",)),
    ],
)
def test_what_makes_no_sense_is_refused_without_starting_anything(
    host: Host, words: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    start = time.monotonic()
    assert_told(host.run(*words, TOAST_IMPORT="hang"), code, *parts)
    assert time.monotonic() - start < 20


def test_help_list_and_completion_start_nothing(host: Host) -> None:
    assert "The made-up format toast." in host.ok("--help", TOAST_IMPORT="hang").stdout
    shown = " ".join(host.ok("toast", "--help", TOAST_IMPORT="hang").stdout.split())
    assert "--level INT How hard to try. [default: 3]" in shown
    assert "--scales NUMBER,NUMBER Two scales. [default: 0.5 2.0]" in shown
    assert "--cores INT" in host.ok("verify", "--help", TOAST_IMPORT="hang").stdout
    rows = host.plugins()
    assert rows["toast"]["status"] == "isolated"
    assert rows["toast"]["formats"] == ["toast"]
    assert Path(rows["toast"]["environment"]).is_dir()
    for typed, offered in (("timmx to", "toast"), ("timmx toast --le", "--level")):
        words = typed.split()
        completion = {
            "_TIMMX_COMPLETE": "bash_complete",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        }
        assert offered in host.ok(TOAST_IMPORT="hang", **completion).stdout


# A child of a large process begins as large as that: what it takes itself, a small one can tell.
PEAK_OF = """\
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def test_start_up_stays_small(host: Host) -> None:
    start = [str(host.python), "-X", "importtime", "-m", "timmx_core", "--help"]
    with (host.work / "imports").open("w") as imports:
        done = subprocess.run(
            [sys.executable, "-c", PEAK_OF, *start],
            cwd=host.work,
            env=host.environment({}),
            stdout=subprocess.PIPE,
            stderr=imports,
            check=True,
        )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 60 << 20
    lines = (host.work / "imports").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "timmx_core.plugins.isolated" in imported
    assert not imported & {"numpy", "psutil", "rich", "packaging.requirements", "filelock"}


def test_errors_of_there_are_errors_here(host: Host) -> None:
    done = host.run("toast", MODEL, MADE_UP="refuse")
    assert_told(done, 6, "no operator toast", "hint: bread", "| noise of a converter")
    content = exported(host.run("toast", MODEL, "--json", MADE_UP="refuse"))
    assert content["error"]["type"] == "ExportError"
    assert content["error"]["exit_code"] == 6
    bug = host.run("toast", MODEL, MADE_UP="bug")
    assert_told(bug, 70, "timmx itself failed", "RuntimeError: a bug", "-crash.log")
    assert host.files == []


def test_a_death_at_work_is_a_failed_export(host: Host) -> None:
    killed = host.run("toast", MODEL, MADE_UP="kill")
    assert_told(killed, 6, "was lost at work", "more memory", "free memory")
    gone = host.run("toast", MODEL, MADE_UP="exit")
    assert_told(gone, 6, "exit code 3")
    assert host.files == []
    host.ok("toast", MODEL)


def test_an_environment_that_does_not_answer_is_given_up(host: Host) -> None:
    done = host.run("toast", MODEL, TOAST_IMPORT="hang", TIMMX_ANSWER_TIMEOUT="2")
    assert_told(done, 4, "did not answer within 2 s", "timmx plugins repair toast")
    assert host.ok("plugins", "list").returncode == 0


def test_a_plugin_that_fails_over_there_says_why(host: Host) -> None:
    assert_told(host.run("toast", MODEL, TOAST_IMPORT="fail"), 3, "its library is gone")


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("number", "code", "whole_group"),
    [(signal.SIGINT, 130, True), (signal.SIGINT, 130, False), (signal.SIGTERM, 143, False)],
)
def test_told_to_end_it_leaves_nothing(
    host: Host, tmp_path: Path, number: int, code: int, whole_group: bool
) -> None:
    mark = tmp_path / "mark"
    process = host.start("toast", MODEL, MADE_UP="sleep", MADE_UP_MARK=str(mark))
    wait_for(mark, process)
    family = children_of(process)
    assert int(mark.read_text()) in {child.pid for child in family}
    assert host.files != []
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in said
    if code == 130:
        assert said.splitlines()[-1] == "interrupted"
    assert host.files == []
    assert psutil.wait_procs(family, timeout=5)[1] == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal")
def test_a_host_that_is_killed_takes_its_export_with_it(host: Host, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = host.start("toast", MODEL, MADE_UP="sleep", MADE_UP_MARK=str(mark))
    wait_for(mark, process)
    family = children_of(process)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert host.files == []


def test_a_terminal_shows_one_live_line(host: Host, tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [host.timmx, "toast", MODEL],
        cwd=host.work,
        env=host.environment(
            {"MADE_UP": "sleep", "MADE_UP_MARK": str(mark), "TERM": "xterm", "COLUMNS": "80"}
        ),
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
        text=True,
    )
    wait_for(mark, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    shown = os.read(primary, 65536).decode()
    os.close(primary)
    os.close(secondary)
    assert "convert" in shown
    assert "\x1b[?25h" in shown
    assert host.files == []


API = """
import timmx_core
from timmx_core import ExportError, RequestError
result = timmx_core.export("toast", "resnet18", level=4, tag=("x",), mean=(0.5,), output="a.toast")
assert result.path.name == "a.toast" and result.path.is_file(), result
assert result.verdict.status == "verified" and result.verdict.worst.snr_db == 120.0
assert result.notes == ("made up",) and result.seconds["convert"] >= 0
assert "'level': 4" in result.manifest["asked"]
try: timmx_core.export("toast", object())
except RequestError as error: assert "a module of this process" in error.message, error
else: raise SystemExit("a module went through")
try: timmx_core.export("toast", "resnet18", level=0)
except RequestError as error: assert "at least 1" in error.message
else: raise SystemExit("level 0 went through")
import os; os.environ["MADE_UP"] = "refuse"
try: timmx_core.export("toast", "resnet18", output="b.toast")
except ExportError as error: assert error.hint == "bread" and error.log_tail, error
else: raise SystemExit("refused, and it went through")
import sys; assert "torch" not in sys.modules
"""


def test_python_has_it_too_from_a_host_without_torch(host: Host) -> None:
    done = host.script(API)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OBSERVER = """
from pathlib import Path
from timmx_core.hookspecs import hookimpl
TIMMX_API_VERSION = 1
@hookimpl
def timmx_export_finished(request, result):
    Path("seen").write_text(f"{request.model} {request.options['level']} {result.verdict.status}")
@hookimpl
def timmx_model_source(name):
    return Path("weights.safetensors").absolute() if name.startswith("shelf:") else None
"""


def test_observers_and_model_sources_are_the_hosts(host: Host, tmp_path: Path) -> None:
    fake_dist(tmp_path / "site", "timmx-observer", "1.0", OBSERVER)
    site = {"PYTHONPATH": str(tmp_path / "site")}
    done = host.ok("toast", "shelf:models/resnet18", "--level", "5", "--json", **site)
    assert (host.work / "seen").read_text() == "shelf:models/resnet18 5 verified"
    manifest = exported(done)["manifest"]
    assert manifest["model"]["name"] == "resnet18"
    given = eval(manifest["asked"])["shared"]["checkpoint"]
    assert given == str(host.work / "weights.safetensors")


def test_doctor_asks_the_environment(host: Host) -> None:
    report = json.loads(host.ok("doctor", "--json").stdout)
    (entry,) = report["formats"]
    assert (entry["name"], entry["environment"], entry["can_export"]) == ("toast", "toast", True)
    (row,) = report["environments"]
    assert row["python"] is not None
    text = host.ok("doctor").stdout
    assert "timmx-toast 1.0 (isolated)" in text
    hanging = json.loads(
        host.ok("doctor", "--json", TOAST_IMPORT="hang", TIMMX_ANSWER_TIMEOUT="2").stdout
    )
    assert hanging["formats"] == []
    assert any("did not answer within 2 s" in p["message"] for p in hanging["problems"])
