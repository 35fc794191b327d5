"""The command line as its users meet it: the real executable, its streams and its exit codes."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_dists import fake_dist, format_source

from timmx_core.cli.summary import verdict_lines
from timmx_core.results import Measurement, Verdict

TIMMX = Path(sys.executable).with_name("timmx")
MODEL = "test_resnet"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Fake distributions that every run of `timmx` sees: the format `alpha` works."""
    folder = tmp_path / "site"
    fake_dist(folder, "timmx-alpha", "1.0", format_source("alpha"))
    return folder


@pytest.fixture
def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(site), "TIMMX_HOME": str(tmp_path / "home")}


@pytest.fixture
def timmx(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `timmx` in an empty folder."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TIMMX, *arguments],
            capture_output=True,
            text=True,
            cwd=work,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
        )

    return run


def only_result(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON object on stdout."""
    return json.loads(done.stdout)


def test_help_names_formats_and_commands(timmx: Run) -> None:
    done = timmx("--help")
    assert done.returncode == 0
    assert "alpha" in done.stdout
    assert "doctor" in done.stdout
    assert done.stderr == ""
    assert timmx().stdout == done.stdout
    assert timmx("-v").stdout == done.stdout
    assert timmx("--version").stdout.startswith("timmx 0.")


def test_python_m_is_timmx(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "timmx_core", "--help"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Usage: timmx " in done.stdout


def test_help_of_a_format_is_in_groups(timmx: Run) -> None:
    done = timmx("alpha", "--help")
    assert done.returncode == 0
    headings = re.findall(r"^(\S.*):$", done.stdout, re.MULTILINE)
    assert headings == [
        "Model",
        "Input",
        "Output",
        "Precision",
        "Verification",
        "Options of alpha",
        "Other options",
    ]
    text = " ".join(done.stdout.split())
    assert "--level INT How hard to try. [default: 3]" in text
    assert "--mode fast|small Which way. [default: fast]" in text
    assert "[default: the model's own]" in text
    assert "--verify / --no-verify" in text
    assert "--calibration-data" not in text
    assert "--device" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        ((), 2, "missing argument 'MODEL'", "timmx alpha --help"),
        (("x", "y"), 2, "got unexpected extra argument", "timmx alpha --help"),
        ((MODEL, "--levle", "3"), 2, "no option --levle", "did you mean --level"),
        ((MODEL, "--level"), 2, "requires an argument", ""),
        ((MODEL, "--level", "x"), 2, "--level wants a whole number, not 'x'", ""),
        ((MODEL, "--mode", "smal"), 2, "--mode is one of fast, small", "did you mean small?"),
        ((MODEL, "--num-classes", "-3"), 2, "--num-classes is at least 1, not -3", ""),
        ((MODEL, "--input-size", "3", "-1", "0"), 2, "--input-size is at least 1", ""),
        ((MODEL, "--input-size", "224"), 2, "requires 3 arguments", "--input-size C H W, with"),
        ((MODEL, "--device", "cuda"), 2, "alpha does not support --device: it runs on", ""),
        ((MODEL, "--precision", "fp61"), 2, "--precision is one of fp32", ""),
        (("resent50",), 5, "resent50", "resnet50"),
        ((MODEL, "-o", "."), 8, "", ""),
    ],
)
def test_bad_requests_are_one_line_each(
    timmx: Run, arguments: tuple[str, ...], code: int, error: str, hint: str
) -> None:
    done = timmx("alpha", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert len(rest) <= 1
    if hint:
        assert rest[0].startswith("hint: ")
        assert hint in rest[0]


def test_errors_are_json_too(timmx: Run) -> None:
    done = timmx("alpha", MODEL, "--json", "--level", "0")
    assert done.returncode == 2
    assert only_result(done) == {
        "error": {
            "type": "RequestError",
            "message": "--level is at least 1, not 0",
            "hint": "",
            "exit_code": 2,
        }
    }
    usage = timmx("alpha", "--json")
    assert only_result(usage)["error"]["exit_code"] == usage.returncode == 2


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("alhpa", "did you mean alpha?"),
        ("docter", "did you mean doctor?"),
        ("zebra", "installed: timmx plugins list"),
        ("resnet18", "the format comes first"),
    ],
)
def test_unknown_words(timmx: Run, word: str, hint: str) -> None:
    done = timmx(word, MODEL)
    assert done.returncode == 3
    assert hint in done.stderr
    # Anyone may have published something under a typing error.
    assert f"install {word}" not in done.stderr


BROKEN = "raise RuntimeError('its library is [gone]')"


def test_bad_plugins_leave_the_rest_working(timmx: Run, site: Path) -> None:
    fake_dist(site, "timmx-broken", "0.3", BROKEN)
    fake_dist(
        site,
        "timmx-old",
        "0.1",
        format_source("old").replace("TIMMX_API_VERSION = 1", "TIMMX_API_VERSION = 0"),
    )
    fake_dist(site, "timmx-slow", "1.0", "import time; time.sleep(.2)\n" + format_source("slow"))
    fake_dist(site, "timmx-beta", "1.0", format_source("beta"))
    fake_dist(site, "beta-too", "2.0", format_source("beta"), {"beta2": "beta_too"})
    rows = {row["name"]: row for row in only_result(timmx("plugins", "list", "--json"))["plugins"]}
    statuses = {name: rows[name]["status"] for name in ("alpha", "broken", "old", "slow", "beta")}
    assert statuses == {
        "alpha": "ok",
        "broken": "failed",
        "old": "incompatible",
        "slow": "ok",
        "beta": "clash",
    }
    assert rows["slow"]["seconds"] >= 0.2
    text = timmx("plugins", "list").stdout
    assert "timmx-broken" in text
    assert "its library is [gone]" in text
    shown = timmx("--help")
    assert shown.returncode == 0
    assert "alpha" in shown.stdout
    assert "failed" in shown.stdout
    for word, said in (
        ("broken", "timmx-broken 0.3"),
        ("old", "timmx-old 0.1"),
        ("beta", "timmx-beta 1.0"),
        ("beta", "beta-too 2.0"),
    ):
        done = timmx(word, MODEL)
        assert done.returncode == 3
        assert said in done.stderr
        assert "hint: " in done.stderr
    assert timmx("alpha", "--help").returncode == 0
    assert timmx("broken", "--help", TIMMX_DISABLE_PLUGINS="broken").returncode == 3


def test_list(timmx: Run) -> None:
    done = timmx("list", "resnet18")
    assert done.returncode == 0
    assert {"resnet18", "resnet18d", "seresnet18"} <= set(done.stdout.split())
    assert only_result(timmx("list", "resnet1?", "--json"))["models"] == ["resnet18"]
    assert "resnet18.a1_in1k" in timmx("list", "resnet18", "--pretrained").stdout.split()
    nothing = timmx("list", "resent50")
    assert nothing.returncode == 5
    assert "resnet50" in nothing.stderr


def test_a_reader_that_goes_away_is_no_error(environment: dict[str, str]) -> None:
    done = subprocess.run(
        f"{TIMMX} list | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.split()[-1] == "0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_result_that_cannot_be_written_is_an_error(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [TIMMX, "list"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert done.returncode == 8
    assert "could not be written" in done.stderr


def test_info(timmx: Run) -> None:
    done = timmx("info", "resnet18", "--json")
    assert done.returncode == 0, done.stderr
    facts = only_result(done)
    assert facts["parameters"] == 11_689_512
    assert facts["num_classes"] == 1000
    assert facts["input"]["height"] == 224
    assert facts["formats"]["alpha"] == {"error": "", "isolated": False, "precisions": ["fp32"]}
    assert "resnet18.a1_in1k" in facts["weights"]["tags"]
    assert timmx("info", "resent50").returncode == 5


def test_doctor(timmx: Run, site: Path) -> None:
    fake_dist(
        site,
        "timmx-needy",
        "1.0",
        format_source("needy").replace(
            "runs_on_torch = True", "runs_on_torch = True; requires = ('no-such-thing>=2',)"
        ),
    )
    fake_dist(
        site,
        "timmx-blind",
        "1.0",
        format_source("blind").replace(
            "    def open(",
            "    def check_export(self, request):\n"
            "        raise MissingDependency('no compiler', 'get one')\n\n"
            "    def check_run(self):\n        1 / 0\n\n    def open(",
        ),
    )
    fake_dist(site, "timmx-broken", "0.3", BROKEN)
    other = "[console_scripts]\ntimmx = other:main\n"
    fake_dist(site, "timmx", "0.10.1", "", other)
    report = only_result(timmx("doctor", "--json"))
    formats = {entry["name"]: entry for entry in report["formats"]}
    alpha = formats["alpha"]
    assert (alpha["importable"], alpha["can_export"], alpha["can_run"]) == (True, True, True)
    needy = formats["needy"]
    assert not needy["importable"]
    assert not needy["can_export"]
    assert needy["remedy"] == 'pip install "no-such-thing>=2"'
    blind = formats["blind"]
    assert (blind["can_export"], blind["can_run"], blind["remedy"]) == (False, False, "get one")
    assert any("ZeroDivisionError" in error for error in blind["errors"])
    assert report["libraries"]["torch"]["importable"]
    assert report["libraries"]["torch"]["cuda"] is not None
    assert report["libraries"]["timm"]["importable"]
    problems = {problem["subject"]: problem for problem in report["problems"]}
    assert "timmx installs a command" in problems["bin/timmx"]["message"]
    assert "[gone]" in problems["plugin broken"]["message"]


def fake_library(site: Path, name: str, source: str) -> None:
    (site / f"{name}.py").write_text(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('libcudart.so is missing')", "libcudart.so is missing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os; os._exit(9)", "exit code 9"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_doctor_survives_a_broken_torch(timmx: Run, site: Path, source: str, said: str) -> None:
    fake_library(site, "torch", source)
    done = timmx("doctor", "--json")
    assert done.returncode == 0
    report = only_result(done)
    assert said in report["libraries"]["torch"]["error"]
    assert said in next(p for p in report["problems"] if p["subject"] == "torch")["message"]
    assert "alpha" in timmx("doctor").stdout


def test_doctor_names_the_cure_of_mixed_builds(timmx: Run, site: Path) -> None:
    fake_library(
        site,
        "torch",
        "__version__ = '2.0+cpu'\nclass version: cuda = None\nclass cuda:\n"
        "    is_available = staticmethod(lambda: False)\n",
    )
    error = "raise RuntimeError('operator torchvision::nms does not exist')"
    fake_library(site, "torchvision", error)
    fake_library(site, "timm", error)
    report = only_result(timmx("doctor", "--json"))
    [problem] = [p for p in report["problems"] if p["subject"] == "torch"]
    assert "do not fit together" in problem["message"]
    assert "torchvision" in problem["remedy"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(timmx: Run, shell: str) -> None:
    done = timmx("completion", shell)
    assert done.returncode == 0
    assert f"_TIMMX_COMPLETE={shell}_complete" in done.stdout


def complete(timmx: Run, line: str) -> list[str]:
    """What bash is offered for the last word of `line`."""
    words = line.split(" ")
    done = timmx(_TIMMX_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return [entry.partition(",")[2] for entry in done.stdout.split()]


def test_completion(timmx: Run, site: Path) -> None:
    fake_dist(site, "timmx-broken", "0.3", BROKEN)
    assert complete(timmx, "timmx alp") == ["alpha"]
    assert "doctor" in complete(timmx, "timmx d")
    assert complete(timmx, "timmx alpha tf_efficientnet_lite") == [
        f"tf_efficientnet_lite{i}" for i in range(5)
    ]
    assert "resnet18.a1_in1k" in complete(timmx, "timmx alpha resnet18.")
    assert complete(timmx, "timmx alpha resnet18 --mode s") == ["small"]
    assert "--opset" not in complete(timmx, "timmx alpha resnet18 --le")
    assert "--level" in complete(timmx, "timmx alpha resnet18 --le")
    assert complete(timmx, "timmx broken resn") == []


@pytest.fixture
def exported(timmx: Run, tmp_path: Path) -> Path:
    done = timmx("alpha", MODEL, "-o", "small.alpha")
    assert done.returncode == 0, done.stderr
    return tmp_path / "work" / "small.alpha"


def test_an_export_from_end_to_end(timmx: Run, tmp_path: Path, exported: Path) -> None:
    """The fake format, with torch below it: export, inspect, verify."""
    assert exported.exists()
    refused = timmx("alpha", MODEL, "-o", "small.alpha")
    assert refused.returncode == 8
    assert "--overwrite" in refused.stderr

    done = timmx("alpha", MODEL, "--json", "--softmax")
    assert done.returncode == 0, done.stderr
    result = only_result(done)
    assert Path(result["path"]).name == f"{MODEL}.alpha"
    assert result["verdict"]["status"] == "verified"
    for text in ("build", "  capture", "convert", "verify", "publish", "float32", "probabilities"):
        assert text in done.stderr
    for note in ("note: the weights are random", "note: a remark", "SNR ", "(floor 80 dB)"):
        assert note in done.stderr
    assert "converter noise" not in done.stderr
    assert f"record   {result['path']}.timmx.json" in done.stderr.splitlines()

    shown = timmx("inspect", "small.alpha")
    assert shown.returncode == 0, shown.stderr
    for text in (MODEL, "float32 [1, 3, 160, 160] NCHW image", "weights: random", "verified"):
        assert text in shown.stdout
    facts = only_result(timmx("inspect", "small.alpha", "--json"))
    assert facts["manifest"]["model"]["name"] == MODEL
    assert facts["intact"] is True

    again = timmx("verify", "small.alpha", "--cores", "1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "verified\n"
    assert only_result(timmx("verify", "small.alpha", "--json"))["verdict"]["status"] == "verified"
    exported.write_bytes(exported.read_bytes()[:-1] + b"x")
    spoilt = timmx("verify", "small.alpha")
    assert spoilt.returncode == 7
    assert spoilt.stdout.startswith("failed: ")
    bad = timmx("verify", "small.alpha", "--cores", "0")
    assert bad.returncode == 2


def test_missing_files_are_told(timmx: Run) -> None:
    for command in ("inspect", "verify"):
        done = timmx(command, "nothing.alpha")
        assert done.returncode == 9
        assert "nothing.alpha does not exist" in done.stderr


def test_a_bug_is_logged_with_versions(timmx: Run, site: Path, tmp_path: Path) -> None:
    source = format_source("alpha").replace(
        "    def open(", "    def check_export(self, request):\n        [][1]\n\n    def open("
    )
    (site / "timmx_alpha.py").write_text(source)
    done = timmx("alpha", MODEL, "--json")
    assert done.returncode == 70
    [log] = (tmp_path / "home" / "logs").glob("*-crash.log")
    assert str(log) in done.stderr
    assert "Traceback" not in done.stderr
    text = log.read_text()
    assert "IndexError" in text
    assert "timmx-core: 0." in text
    assert "timmx-alpha: 1.0" in text
    assert only_result(done)["error"]["exit_code"] == 70
    assert "Traceback" in timmx("-v", "alpha", MODEL).stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    """Of files, temporary files and processes, whatever the converter does about it."""
    work, temporary = tmp_path / "interrupted", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [TIMMX, "alpha", MODEL],
        cwd=work,
        env=environment | {"alpha_SLEEP": str(mark), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(3000):
        if mark.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert list(work.iterdir())
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert out == ""
    told = [line for line in err.splitlines() if not re.search(r" \d+\.\d s$", line)]
    assert told == (["interrupted"] if number == signal.SIGINT else [])
    left = [path.name for path in (*work.iterdir(), *temporary.iterdir())]
    assert [name for name in left if not name.startswith("torchinductor_")] == []  # torch's cache
    assert not psutil.pid_exists(int(mark.read_text()))


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """What a terminal is sent on stderr."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [TIMMX, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env=environment,
    ):
        os.close(slave)
        text = b"".join(read_all(master))
    os.close(master)
    return text.decode()


def read_all(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other side is closed
                raise
            return
        if not data:
            return
        yield data


def test_colours_are_for_terminals(environment: dict[str, str], site: Path, timmx: Run) -> None:
    source = format_source("alpha").replace(
        "    def open(",
        "    def check_export(self, request):\n"
        "        raise MissingDependency('no torch', 'pip install \"timmx-core[timm]\"')\n\n"
        "    def open(",
    )
    (site / "timmx_alpha.py").write_text(source)
    environment = {k: v for k, v in environment.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    coloured = on_a_terminal(["alpha", MODEL], environment)
    assert "\x1b[31m" in coloured
    assert 'pip install "timmx-core[timm]"' in coloured
    plain = on_a_terminal(["alpha", MODEL], environment | {"NO_COLOR": "1"})
    assert "\x1b[31m" not in plain
    assert 'hint: pip install "timmx-core[timm]"' in plain
    assert "\x1b" not in timmx("alpha", MODEL).stderr


def test_a_terminal_gets_a_live_line(environment: dict[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "live.alpha")
    text = on_a_terminal(
        ["alpha", MODEL, "--no-verify", "-o", output],
        environment | {"TERM": "xterm", "COLUMNS": "100"},
    )
    assert "\x1b[2K" in text  # the live line is erased and drawn again
    assert "not verified: --no-verify" in text


def test_help_is_light(environment: dict[str, str]) -> None:
    code = (
        "import sys; from timmx_core.cli.program import run; run(sys.argv[1:]);"
        "print({'torch', 'timm', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    for arguments in (["--help"], ["--version"], ["plugins", "list"], ["list", "resnet"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not eval(done.stderr.splitlines()[-1]) & {"torch", "timm", "numpy", "rich"}


def test_help_is_small_and_quick(environment: dict[str, str]) -> None:
    """Processor time, which other work on the machine does not change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([TIMMX, "--help"], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0


def test_figures_of_something_else_are_not_taken_for_the_files_own() -> None:
    row = Measurement("ONNX given to the builder", "output", 1, 90.0, 80.0)
    verdict = Verdict("not verifiable here", "there is no card", measurements=(row,), probes=8)
    _, figures = verdict_lines(verdict)
    assert figures.strip().startswith("not of the file, but of 'ONNX given to the builder': SNR 90")
    own = replace(row, comparison="file", snr_db=120.0, top1=1.0)
    further = replace(row, comparison="in simulated fp16 arithmetic", top1=0.5)
    verified = replace(verdict, status="verified", measurements=(own, row, further))
    # A line for each, with figures that belong together.
    assert [line.strip() for line in verdict_lines(verified)[1:]] == [
        "SNR 120.0 dB (floor 80 dB), top-1 equal on 8 of 8 probes",
        "'ONNX given to the builder': SNR 90.0 dB (floor 80 dB), 8 probes",
        "'in simulated fp16 arithmetic': SNR 90.0 dB (floor 80 dB), top-1 equal on 4 of 8 probes",
    ]


LEAVES = """
import atexit, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
class Library:
    def __del__(self, abort=os.abort):
        abort()  # as some native ones do while they are torn down
library = Library()
atexit.register(lambda: print("tidied"))
threading.Thread(target=lambda: (time.sleep(0.5), print("waited"))).start()
pool = ThreadPoolExecutor(1)  # its thread ends when Python says that it ends itself
pool.submit(int).result()
sys.argv = ["timmx", "--version"]
from timmx_core.cli import main
main()
"""


def test_what_crashes_in_the_teardown_of_python_spoils_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["waited", "tidied"]
