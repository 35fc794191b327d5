"""What goes wrong with environments is told in a line, and harms nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from isolated_hosts import OFFLINE, Host, assert_told, uv, wait_for
from wheels import plugin_wheel, write_wheel

MODEL = "resnet18"


@pytest.fixture
def fresh(core_host: Host, tmp_path: Path) -> Host:
    """Core alone, with an empty home."""
    return core_host.at(tmp_path)


@pytest.fixture
def copied(toaster: Host, tmp_path: Path) -> Host:
    """`toaster` with an index of its own, over the same environment."""
    host = toaster.at(tmp_path)
    host.home.mkdir()
    shutil.copyfile(toaster.home / "plugins.json", host.home / "plugins.json")
    (host.home / "envs").symlink_to(toaster.home / "envs")
    return host


def change_entry(host: Host, **facts: object) -> None:
    path = host.home / "plugins.json"
    content = json.loads(path.read_text())
    for key, value in facts.items():
        target = content["plugins"]["toast"]
        *way, last = key.split("__")
        for step in way:
            target = target[step]
        target[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "binary"])
def test_a_damaged_index_is_told_and_repaired(copied: Host, damage: str) -> None:
    path = copied.home / "plugins.json"
    data = path.read_bytes()
    spoilt = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "other": b'{"schema": 1, "plugins": {"toast": {}}}',
        "binary": b"\xff\x00\xff",
    }
    path.write_bytes(spoilt[damage])
    assert_told(copied.run("toast", MODEL), 4, "damaged", "timmx plugins repair")
    shown = copied.ok("--help").stdout
    assert "list " in shown
    assert "damaged" in shown
    assert "damaged" in copied.ok("plugins", "list").stdout
    assert_told(copied.run("plugins", "remove", "toast", "--yes"), 4, "damaged")
    copied.ok("plugins", "repair", *OFFLINE)
    copied.ok("toast", MODEL)
    assert path.with_suffix(".json.damaged").read_bytes() == spoilt[damage]


def test_an_index_that_is_gone_is_made_from_the_environments(copied: Host) -> None:
    (copied.home / "plugins.json").unlink()
    assert_told(copied.run("toast", MODEL), 3, "toast")
    copied.ok("plugins", "repair", *OFFLINE)
    copied.ok("toast", MODEL)


def test_an_index_of_a_newer_timmx_is_left_alone(copied: Host) -> None:
    path = copied.home / "plugins.json"
    path.write_text('{"schema": 2, "environments": []}')
    assert_told(copied.run("toast", MODEL), 4, "newer timmx", "--upgrade timmx-core")
    assert_told(copied.run("plugins", "repair", *OFFLINE), 4, "newer timmx")
    assert_told(copied.run("plugins", "install", "x", *OFFLINE, "--isolated"), 4, "newer timmx")
    assert path.read_text() == '{"schema": 2, "environments": []}'
    copied.ok("--help")


def test_another_protocol_is_not_spoken(copied: Host) -> None:
    change_entry(copied, description__protocol=2)
    assert_told(copied.run("toast", MODEL), 4, "protocol", "--upgrade timmx-core")
    change_entry(copied, description__protocol=0)
    assert_told(copied.run("toast", MODEL), 4, "protocol", "timmx plugins upgrade toast")
    assert copied.plugins()["toast"]["status"] == "incompatible"


def test_a_description_that_makes_no_sense_is_a_row(copied: Host) -> None:
    change_entry(copied, description__formats=[{"name": "toast"}])
    assert copied.plugins()["toast"]["status"] == "failed"
    assert_told(copied.run("toast", MODEL), 4, "description")
    copied.ok("plugins", "repair", "toast", *OFFLINE)
    copied.ok("toast", MODEL)


def test_what_a_newer_core_added_is_no_trouble(copied: Host) -> None:
    path = copied.home / "plugins.json"
    content = json.loads(path.read_text())
    (described,) = content["plugins"]["toast"]["description"]["formats"]
    described["refuses"]["option_of_tomorrow"] = "no"
    described["options"][0]["tomorrow"] = 1
    described["tomorrow"] = {}
    path.write_text(json.dumps(content))
    copied.ok("toast", MODEL)


@pytest.mark.parametrize("lost", ["environment", "python"])
def test_a_lost_environment_is_told_and_made_again(
    fresh: Host, toast_wheel: Path, lost: str
) -> None:
    fresh.ok("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    (name,) = fresh.environments()
    folder = fresh.home / "envs" / name
    if lost == "environment":
        shutil.rmtree(folder)
    else:
        (folder / "bin" / "python").unlink()
        (folder / "bin" / "python").symlink_to("/nowhere/python")
    assert_told(fresh.run("toast", MODEL), 4, "gone", "timmx plugins repair toast")
    assert "is gone" in fresh.ok("--help").stdout
    assert any(
        "gone" in p["message"] for p in json.loads(fresh.ok("doctor", "--json").stdout)["problems"]
    )
    assert_told(fresh.run("plugins", "repair", "--offline"), 2, "no terminal to ask at")
    assert "works again" in fresh.ok("plugins", "repair", "toast", *OFFLINE).stderr
    fresh.ok("toast", MODEL)
    assert len(fresh.environments()) == 1
    assert "nothing to repair" in fresh.ok("plugins", "repair").stderr


# ------------------------------------------------------------------ installations that end early


def pausing_uv(
    host: Host, folder: Path, words: str, mark: Path, seconds: int = 60
) -> dict[str, str]:
    """A uv that says when it is asked for `words`, and waits before it does what it is asked."""
    folder.mkdir()
    program = folder / "uv"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in {words}) : > "{mark}"; sleep {seconds};; esac\n'
        f'exec "{uv()}" "$@"\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{host.environment({})['PATH']}"}


STAGES = {
    "create": "venv*",
    "resolve": "*--dry-run*",
    "install": "*--dry-run*) ;; pip*",
}


@contextlib.contextmanager
def paused_install(
    host: Host, stage: str, tmp_path: Path, wheels: Path
) -> Iterator[subprocess.Popen[str]]:
    """An installation that has come to a stage, and will stay there for a while."""
    mark = tmp_path / "mark"
    variables, prelude = {}, ""
    with contextlib.ExitStack() as stack:
        if stage in STAGES:
            variables = pausing_uv(host, tmp_path / "bin", STAGES[stage], mark)
        elif stage == "describe":
            prelude = f"open({str(mark)!r}, 'w').close(); time.sleep(60)"
        else:
            (host.home / "locks").mkdir(parents=True)
            stack.enter_context(FileLock(host.home / "locks" / "plugins.json.lock"))
        wheel = plugin_wheel(wheels, "crumb", prelude=prelude)
        process = host.start("plugins", "install", wheel, "--isolated", *OFFLINE, **variables)
        if stage == "index":
            entries = host.home / "envs"
            while not list(entries.glob("*/timmx-plugin.json")):
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
        else:
            wait_for(mark, process)
        yield process


@pytest.mark.parametrize("stage", [*STAGES, "describe", "index"])
def test_an_installation_killed_at_any_stage(fresh: Host, tmp_path: Path, stage: str) -> None:
    with paused_install(fresh, stage, tmp_path, tmp_path / "wheels") as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert "crumb" not in fresh.plugins()
    assert_told(fresh.run("crumb", MODEL), 3, "crumb")
    if stage in ("install", "index"):
        (problem,) = (
            p
            for p in json.loads(fresh.ok("doctor", "--json").stdout)["problems"]
            if p["subject"] == "environments"
        )
        assert "interrupted installation" in problem["message"]
    fresh.ok("plugins", "repair", *OFFLINE)
    # What was complete but for the index is taken into it, everything else is swept up.
    assert len(fresh.environments()) == (1 if stage == "index" else 0)
    assert ("crumb" in fresh.plugins()) is (stage == "index")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["install", "describe"])
def test_an_installation_told_to_end_leaves_nothing(
    fresh: Host, tmp_path: Path, stage: str, number: int
) -> None:
    with paused_install(fresh, stage, tmp_path, tmp_path / "wheels") as process:
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert fresh.environments() == []
    assert fresh.plugins() == {}


def test_two_installations_of_one_plugin_at_once(
    fresh: Host, tmp_path: Path, toast_wheel: Path
) -> None:
    mark = tmp_path / "mark"
    slow = pausing_uv(fresh, tmp_path / "bin", STAGES["install"], mark, 3)
    words = ("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    first = fresh.start(*words, **slow)
    wait_for(mark, first)
    second = fresh.ok(*words)
    first.communicate()
    assert first.returncode == 0
    assert "waiting for another timmx" in second.stderr
    assert "is installed already" in second.stderr
    assert len(fresh.environments()) == 1
    fresh.ok("toast", MODEL)


def test_a_full_disk(fresh: Host, tmp_path: Path) -> None:
    big = os.urandom(1 << 21)
    wheel = write_wheel(
        tmp_path, "timmx-big", "1.0", {"timmx_big.py": "", "big.bin": big}, plugin="timmx_big"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    done = subprocess.run(
        [fresh.timmx, "plugins", "install", wheel, "--isolated", *OFFLINE],
        cwd=fresh.work,
        env=fresh.environment({}),
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert_told(done, 4, "the disk is full", "TIMMX_HOME")
    assert fresh.environments() == []


def test_a_disk_that_is_really_full(fresh: Host, toast_wheel: Path) -> None:
    fresh.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(fresh.home)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = fresh.run("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
        assert_told(done, 4, "the disk is full", "TIMMX_HOME")
        assert fresh.environments() == []
        fresh.ok("plugins", "list")
        # Not even the index can be written then.
        with contextlib.suppress(OSError), (fresh.home / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1 << 16))
        assert_told(fresh.run("plugins", "install", toast_wheel, "--isolated", *OFFLINE), 4)
        fresh.ok("--help")
    finally:
        subprocess.run(["umount", str(fresh.home)], check=True)


def test_a_home_that_cannot_be_made(core_host: Host, toast_wheel: Path, tmp_path: Path) -> None:
    host = core_host.at(tmp_path)
    host.home.write_text("a file")
    done = host.run("plugins", "install", toast_wheel, "--isolated", *OFFLINE)
    assert_told(done, 4, "home cannot be written")
    assert_told(host.run("toast", MODEL), 4, "cannot be read")
    host.ok("--help")


@pytest.mark.parametrize(
    ("prelude", "code", "parts"),
    [
        ("raise RuntimeError('no licence')", 3, ("no licence",)),
        ("os._exit(7)", 4, ("exit code 7",)),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 4, ("SIGSEGV",)),
    ],
)
def test_a_plugin_that_does_not_work_over_there_is_not_taken(
    fresh: Host, tmp_path: Path, prelude: str, code: int, parts: tuple[str, ...]
) -> None:
    wheel = plugin_wheel(tmp_path, "crumb", prelude=prelude)
    done = fresh.run("plugins", "install", wheel, "--isolated", *OFFLINE)
    assert_told(done, code, *parts)
    assert fresh.environments() == []
    assert fresh.plugins() == {}
