"""Several formats from one command: in parallel, one table, no failure stops another."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fake_dists import fake_dist
from isolated_hosts import OFFLINE, Host, assert_told, wait_for
from wheels import PLUGIN, plugin_wheel

from timmx_core.isolation import run_all as together

MODEL = "resnet18"


@pytest.fixture(scope="module")
def kitchen(core_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """`toast` and `jam` in environments of their own, and `bread` here where PYTHONPATH has it."""
    folder = tmp_path_factory.mktemp("kitchen")
    host = core_host.at(folder)
    wheels = [plugin_wheel(folder, name) for name in ("toast", "jam")]
    host.ok("plugins", "install", *wheels, "--isolated", *OFFLINE)
    bread = PLUGIN.replace("PRELUDE", "").replace("NAME", "bread")
    fake_dist(folder / "site", "timmx-bread", "1.0", bread)
    return host


@pytest.fixture
def host(kitchen: Host, tmp_path: Path) -> Host:
    return Host(kitchen.folder, tmp_path / "work", kitchen.home)


@pytest.fixture
def site(kitchen: Host) -> dict[str, str]:
    return {"PYTHONPATH": str(kitchen.home.parent / "site")}


def test_all_formats_from_one_command(host: Host, site: dict[str, str]) -> None:
    (host.work / "timmx_core.py").write_text("raise SystemExit('the working folder')")
    done = host.ok("run-all", MODEL, "-o", "out", "--set", "jam.level=9", "--softmax", **site)
    files = [host.work / "out" / f"resnet18.{name}" for name in ("bread", "jam", "toast")]
    assert done.stdout.splitlines() == [str(file) for file in files]
    assert all(file.read_text() == "a whole file" for file in files)
    rows = [line.split() for line in done.stderr.splitlines()]
    assert [row[:2] for row in rows if row[1:2] == ["verified"]] == [
        ["bread", "verified"],
        ["jam", "verified"],
        ["toast", "verified"],
    ]
    again = host.ok("run-all", MODEL, "-o", "out", "--overwrite", "--json", **site)
    results = json.loads(again.stdout)["formats"]
    asked = {name: eval(result["manifest"]["asked"]) for name, result in results.items()}
    assert set(asked) == {"bread", "jam", "toast"}


def test_options_reach_the_formats_that_they_are_for(host: Host, site: dict[str, str]) -> None:
    words = ["--formats", "toast,jam", "--seed", "7", "--json"]
    words += ["--set", "jam.fold=false", "--set", "jam.tag=a", "--set", "jam.tag=b"]
    results = json.loads(host.ok("run-all", MODEL, *words, **site).stdout)["formats"]
    jam, toast = (eval(results[name]["manifest"]["asked"]) for name in ("jam", "toast"))
    assert (jam["options"]["fold"], jam["options"]["tag"]) == (False, ("a", "b"))
    assert (toast["options"]["fold"], toast["options"]["tag"]) == (True, ())
    assert jam["shared"]["seed"] == toast["shared"]["seed"] == 7


def test_one_failure_stops_no_other(host: Host, site: dict[str, str]) -> None:
    words = ("run-all", MODEL, "--formats", "toast,bread,jam")
    faults = {"MADE_UP_BREAD": "kill", "MADE_UP_JAM": "bug"} | site
    done = host.run(*words, **faults)
    assert_told(done, 6, "bread: the export to bread was lost at work", "jam: RuntimeError: a bug")
    assert done.stdout == f"{host.work / 'resnet18.toast'}\n"
    # The first failure in the order of the formats decides.
    done = host.run("run-all", MODEL, "--formats", "jam,bread,toast", "--json", **faults)
    assert done.returncode == 70
    results = json.loads(done.stdout)["formats"]
    codes = {name: result["error"]["exit_code"] for name, result in results.items()}
    assert codes == {"jam": 70, "bread": 6, "toast": 8}


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("--formats", "toast,taost"), 3, "did you mean toast?"),
        (("--formats", "toast,toast"), 2, "toast is asked for twice"),
        (("--formats", "toast", "--set", "jam.level=1"), 2, "jam"),
        (("--set", "jam.levle=1"), 2, "no option 'levle'"),
        (("--set", "level=1"), 2, "--set wants FORMAT.OPTION=VALUE"),
        (("--jobs", "0"), 2, "--jobs is at least 1"),
        (("--formats", ","), 2, "no format to export to"),
    ],
)
def test_what_makes_no_sense_begins_nothing(
    host: Host, words: tuple[str, ...], code: int, part: str
) -> None:
    assert_told(host.run("run-all", MODEL, *words, "-o", "out"), code, part)
    assert host.files == []


def test_a_folder_that_nothing_was_written_to_is_not_left(host: Host) -> None:
    done = host.run("run-all", MODEL, "--formats", "jam,toast", "-o", "a/out", MADE_UP="refuse")
    assert_told(done, 6, "no operator toast")
    assert not (host.work / "a" / "out").exists()
    (host.work / "file").touch()
    assert_told(host.run("run-all", MODEL, "-o", "file"), 8, "file is not a folder")


def test_told_to_end_it_leaves_nothing(host: Host, tmp_path: Path, site: dict[str, str]) -> None:
    mark = tmp_path / "mark"
    process = host.start(
        "run-all", MODEL, "--jobs", "3", "--memory", "0", MADE_UP="sleep",
        MADE_UP_MARK=str(mark), **site,
    )  # fmt: skip
    wait_for(mark, process)
    time.sleep(1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 3
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert host.files == []


def test_a_terminal_shows_one_live_table(host: Host, site: dict[str, str]) -> None:
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [host.timmx, "run-all", MODEL, "--jobs", "1"],
        cwd=host.work,
        env=host.environment({"TERM": "xterm", "COLUMNS": "80"} | site),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=secondary,
        text=True,
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            part = os.read(primary, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(primary)
    printed, _ = process.communicate()
    assert process.returncode == 0
    text = shown.decode()
    assert "waiting" in text
    assert "\x1b[?25h" in text
    assert text.count("FORMAT") > 2
    assert len(printed.splitlines()) == 3


def test_an_interrupted_program_ends_its_exports(host: Host, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = (
        "import timmx_core\n"
        "try: timmx_core.export_all('resnet18', ['jam', 'toast'], output='out')\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    process = subprocess.Popen(
        [host.python, "-c", source],
        cwd=host.work,
        env=host.environment({"MADE_UP": "sleep", "MADE_UP_MARK": str(mark)}),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(mark, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert host.files == []


def test_files_of_one_name_get_the_formats_name() -> None:
    """Companions count: OpenVINO and ncnn both write `<stem>.bin`."""

    def files(primary: str, *companions: str) -> SimpleNamespace:
        return SimpleNamespace(suffixes=(primary,), companion_suffixes=companions)

    backends = {
        "one": files(".x"),
        "two": files(".x"),
        "three": files(".y"),
        "four": files(".xml", ".bin"),
        "five": files(".param", ".bin"),
    }
    names = together._file_names("hf-hub:org/net.v1", backends)
    assert names == {
        "one": "net.v1.one.x",
        "two": "net.v1.two.x",
        "three": "net.v1.y",
        "four": "net.v1.four.xml",
        "five": "net.v1.five.param",
    }


def test_memory_decides_how_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=5 * together.GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    young = together.Job("young", began=time.monotonic())
    old = together.Job("old", began=time.monotonic() - 60)
    assert together._may_begin([young], 4, 2.0)
    assert not together._may_begin([young, young], 4, 2.0)
    assert together._may_begin([young, old], 4, 2.0)
    assert not together._may_begin([young, old], 2, 2.0)
    assert not together._may_begin([old], 4, 6.0)


def test_python_has_it_too(host: Host) -> None:
    source = (
        "import timmx_core\n"
        "done = timmx_core.export_all('resnet18', ['jam', 'toast'], output='out',\n"
        "    own_options={'jam': {'level': 0}}, softmax=True)\n"
        "assert list(done) == ['jam', 'toast']\n"
        "assert isinstance(done['jam'], timmx_core.RequestError)\n"
        "assert done['toast'].verdict.status == 'verified'\n"
    )
    done = host.script(source)
    assert (done.returncode, done.stderr) == (0, "")
