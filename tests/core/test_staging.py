"""The folder that no failure leaves behind, and putting files in place."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from timmx_core.errors import OutputError
from timmx_core.files.ownership import Naming
from timmx_core.files.publishing import publish as publish_
from timmx_core.files.publishing import put
from timmx_core.files.staging import LOCK, PREFIX, Staging, remove_dead

HOLD = """
import sys, time
from pathlib import Path
from timmx_core.files.staging import Staging
with Staging(Path(sys.argv[1])) as staging:
    (staging.path / "half").write_bytes(b"half a file")
    print(staging.path, flush=True)
    time.sleep(60)
"""


def staging_folders(folder: Path) -> list[Path]:
    return sorted(folder.glob(PREFIX + "*"))


@pytest.fixture
def another_run(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that holds a staging folder in tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert Path(process.stdout.readline().strip()).is_dir()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_folder_goes_with_the_run(tmp_path: Path) -> None:
    def fail() -> None:
        with Staging(tmp_path) as staging:
            (staging.path / "part").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_for_it_go_unless_something_was_published(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with Staging(target):
        assert target.is_dir()
    assert list(tmp_path.iterdir()) == []
    with Staging(target) as staging:
        (target / "file").write_bytes(b"x")
        staging.published = True
    assert (target / "file").exists()


def test_what_a_killed_run_left_is_removed_by_the_next(
    tmp_path: Path, another_run: Callable[[], subprocess.Popen[str]]
) -> None:
    process = another_run()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = staging_folders(tmp_path)
    with Staging(tmp_path) as staging:
        assert staging_folders(tmp_path) == [staging.path]
    assert not left.exists()


def test_a_folder_that_is_only_called_so_is_left_alone(tmp_path: Path) -> None:
    """Somebody's notes, and a folder that looks like a run's but has no lock."""
    for name in ("notes", "123-01234567"):
        folder = tmp_path / f"{PREFIX}{name}"
        folder.mkdir()
        (folder / "thesis.txt").write_text("years")
    remove_dead(tmp_path)
    assert len(list(tmp_path.rglob("thesis.txt"))) == 2


def test_a_child_that_outlives_its_run_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """Started when its parent was killed, it still has the lock that it was born with."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = tmp_path / f"{PREFIX}{ended.pid}-01234567"
    folder.mkdir()
    lock = FileLock(folder / LOCK, thread_local=False)
    lock.acquire()
    timer = threading.Timer(0.3, lock.release)
    timer.start()
    remove_dead(tmp_path)
    timer.join()
    assert not folder.exists()


def test_the_folder_of_a_live_run_is_left_alone(
    tmp_path: Path, another_run: Callable[[], subprocess.Popen[str]]
) -> None:
    another_run()
    (theirs,) = staging_folders(tmp_path)
    with Staging(tmp_path):
        assert len(staging_folders(tmp_path)) == 2
    assert (theirs / "half").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "no space left on the disk"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "no permission to write"),
        (errno.EIO, "cannot write to"),
    ],
)
def test_what_the_system_refuses_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Root may write anywhere, so the system's answer is put in its mouth."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError) as caught:
        Staging(tmp_path / "folder").__enter__()
    assert words in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="is not a folder"), Staging(tmp_path / "file" / "deeper"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_read_only_system_is_said() -> None:
    with pytest.raises(OutputError), Staging(Path("/proc/timmx")):
        pass


# ------------------------------------------------------------------------------- publishing


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    for name in ("model.x", "model.bin", "record.json"):
        (folder / name).write_text(f"new {name}")
    return folder


def publish(staged: Path, target: Path, *, overwrite: bool = False) -> None:
    companions = (staged / "model.bin",)
    publish_(
        staged / "model.x",
        companions,
        staged / "record.json",
        target,
        naming=Naming((".bin",)),
        overwrite=overwrite,
    )


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


NEW = {
    "model.x": "new model.x",
    "model.bin": "new model.bin",
    "model.x.timmx.json": "new record.json",
}


def test_file_companion_and_record_are_put_in_place(staged: Path, tmp_path: Path) -> None:
    publish(staged, tmp_path / "model.x")
    assert contents(tmp_path) == NEW


@pytest.mark.parametrize("existing", ["model.x", "model.bin"])
def test_nothing_is_replaced_without_leave(staged: Path, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        publish(staged, tmp_path / "model.x")
    assert contents(tmp_path) == {existing: "old"}


def test_the_file_and_its_record_are_replaced_with_leave(staged: Path, tmp_path: Path) -> None:
    for name in ("model.x", "model.x.timmx.json"):
        (tmp_path / name).write_text("old")
    publish(staged, tmp_path / "model.x", overwrite=True)
    assert contents(tmp_path) == NEW


def test_a_pipe_in_the_record_s_place_is_not_read(staged: Path, tmp_path: Path) -> None:
    """It would be, for ever, in search of companions of the old file."""
    (tmp_path / "model.x").write_text("old")
    os.mkfifo(tmp_path / "model.x.timmx.json")
    publish(staged, tmp_path / "model.x", overwrite=True)
    assert contents(tmp_path) == NEW


def test_a_folder_in_the_target_s_place_loses_nothing(staged: Path, tmp_path: Path) -> None:
    """--overwrite replaces a file; a folder of that name is somebody's, and so is what is near."""
    (tmp_path / "model.x").mkdir()
    (tmp_path / "model.bin").write_text("old")
    (tmp_path / "model.x.timmx.json").write_text("old")
    with pytest.raises(OutputError, match="is a directory"):
        publish(staged, tmp_path / "model.x", overwrite=True)
    assert contents(tmp_path) == {"model.bin": "old", "model.x.timmx.json": "old"}


def test_one_of_two_that_race_for_a_name_wins(tmp_path: Path) -> None:
    """Many times, since the window is narrow: the loser is told, and its file is not half there."""
    for attempt in range(50):
        target = tmp_path / f"{attempt}.x"
        sources = [tmp_path / f"{attempt}-{i}" for i in range(2)]
        for source in sources:
            source.write_text(source.name)
        gate = threading.Barrier(2)
        lost: list[Path] = []

        def run(source: Path, gate=gate, target=target, lost=lost) -> None:  # type: ignore[no-untyped-def]
            gate.wait()
            try:
                put(source, target, overwrite=False)
            except FileExistsError:
                lost.append(source)

        threads = [threading.Thread(target=run, args=(source,)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (loser,) = lost
        winner = next(s for s in sources if s != loser)
        assert target.read_text() == winner.name
        assert loser.exists()


def test_a_folder_is_exchanged_in_one_step(tmp_path: Path) -> None:
    """Whoever looks meanwhile sees the old folder or the new one, and never none."""
    target = tmp_path / "model.pkg"
    target.mkdir()
    (target / "weights").write_text("0")
    missing: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if not (target / "weights").exists():
                missing.append(1)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for i in range(1, 200):
            source = tmp_path / f"new{i}"
            source.mkdir()
            (source / "weights").write_text(str(i))
            put(source, target, overwrite=True)
    finally:
        done.set()
        watcher.join()
    assert (target / "weights").read_text() == "199"
    assert not missing
