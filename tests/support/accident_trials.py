"""Accidents that befall an export, for every format: a subclass names the format, no more.

    class TestAccidentsOfMine(AccidentTests):
        format = "mine"

Kills, full disks, read-only folders, races, and files that crash, hang or eat memory when they are
run. Afterwards the target is absent or whole, an earlier file is intact, nothing else lies about,
the exit code is the documented one, and the message is one line and a hint.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from warm_timmx import Warm

from timmx_core import api
from timmx_core.files.publishing import record_path
from timmx_core.files.staging import PREFIX, Staging
from timmx_core.testing.distributions import fake_dist

TIMMX = Path(sys.executable).with_name("timmx")
MODEL = "test_resnet"
SMALL = ("--input-size", "3", "64", "64", "--num-classes", "10")
PAGE = 4096
PATIENCE = 600.0  # seconds; a loaded machine takes a minute for what an idle one does in five
SUPPORT = Path(__file__).parent
# What has been seen on stderr when a stage has begun. A stage is told when it ends.
BEGUN = {"build": "", "convert": "build ", "verify": "\nconvert ", "publish": "\nverify "}
ENDS = {
    "segfault": "the runtime died with SIGSEGV",
    "hang": "still running after 2 s",
    "glutton": "took more than 1.0 GiB of memory",
}
SIGNALS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """What it told of its failure, without stages, notes, a log's lines and the verdict."""
        heads = ("error:", "hint:", "Traceback", "log:")
        return [line for line in self.err.splitlines() if line.startswith(heads)]


class Running:
    """A command under way; its streams go to files."""

    def __init__(self, arguments: Sequence[str], folder: Path, streams: Path, **env: str) -> None:
        streams.mkdir(parents=True, exist_ok=True)
        name = f"{time.monotonic_ns()}"
        self.folder = folder
        self.out, self.err = streams / f"{name}.out", streams / f"{name}.err"
        self.pid = self.start(arguments, env)

    def start(self, arguments: Sequence[str], env: dict[str, str]) -> int:
        """Start the installed command."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [TIMMX, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=os.environ | env,
                start_new_session=True,
                # A shell that runs things in the background has them ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )
        return self.process.pid

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        return self.process.wait(PATIENCE)

    def alive(self) -> bool:
        """Whether it goes on."""
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def reach(self, stage: str) -> None:
        """Wait until a stage has begun, or the end."""
        deadline = time.monotonic() + PATIENCE
        while self.alive() and time.monotonic() < deadline:
            staged = any(self.folder.glob(PREFIX + "*"))
            if staged and BEGUN[stage] in self.err.read_text(errors="replace"):
                return
            time.sleep(0.005)

    def signal(self, number: int) -> list[psutil.Process]:
        """Send it a signal.

        :return: the processes that it had started.
        """
        try:
            children = psutil.Process(self.pid).children(recursive=True)
            os.kill(self.pid, number)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return []
        return children

    def end(self) -> Ended:
        """Wait for it."""
        code = self.wait()
        out, err = self.out.read_text(errors="replace"), self.err.read_text(errors="replace")
        return Ended(code, out, err)


class RunningWarm(Running):
    """The same from a process that has imported torch already."""

    def __init__(
        self, warm: Warm, arguments: Sequence[str], folder: Path, streams: Path, **env: str
    ) -> None:
        self.warm = warm
        super().__init__(arguments, folder, streams, **env)

    def start(self, arguments: Sequence[str], env: dict[str, str]) -> int:
        """Fork the command."""
        return self.warm.start(arguments, self.folder, self.out, self.err, **env)

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        return self.warm.wait(self.pid)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder but those in staging."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(PREFIX)
    }


def staging_folders(folder: Path) -> list[str]:
    """What is in staging, or was left there."""
    return [path.name for path in folder.glob(PREFIX + "*")]


def trouble_in(folder: Path, target: Path, before: dict[str, str], *, lost: bool) -> str:
    """What an accident has left behind that it should not have; empty if nothing.

    :param before: digests of what was there.
    :param lost: the export did not succeed, so what was there must be there, unless the accident
        came after a complete new file was in place.
    """
    with Staging(folder):
        pass  # the next run
    if staging_folders(folder):
        return f"the next run leaves {staging_folders(folder)}"
    after = digests(folder)
    if lost and after == before:
        return ""
    if not target.exists():
        return f"{sorted(after)} lie about, and the target does not"
    try:
        found = api.inspect(target)
    except Exception as error:  # noqa: BLE001 (whatever it is, the file is not whole)
        return f"the target cannot be read: {error}"
    if found.intact is not True or found.record is None:
        return f"the target is not what its record says: {found.problems}"
    whole = {*found.record["members"], record_path(target).name}
    strangers = after.keys() - whole - before.keys()
    return f"{sorted(strangers)} lie about" if strangers else ""


@contextmanager
def small_disk(folder: Path, size: int, *, read_only: bool = False) -> Iterator[Path]:
    """A file system of `size` bytes. Skips the test where it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = max(1, size // PAGE)
    words = ["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (not root, or a container without leave)")
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a file system."""
    with (folder / "filling").open("wb", buffering=0) as file:
        for size in (1 << 20, PAGE, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def gone(processes: Sequence[psutil.Process], within: float = 30.0) -> bool:
    """Whether processes end by themselves."""
    _, alive = psutil.wait_procs(processes, within)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Place:
    """Where exports of one test go."""

    tests: type[AccidentTests]
    warm: Warm
    folder: Path
    streams: Path

    @property
    def target(self) -> Path:
        """The file that is exported to."""
        return self.folder / f"model{self.tests.suffix()}"

    def words(self, *more: str, kind: str = "", target: Path | None = None) -> list[str]:
        """The words of a command."""
        format = self.tests.format + (f"-{kind}" if kind else "")
        place = self.target if target is None else target
        return [format, MODEL, *SMALL, *self.tests.options, "-o", str(place), *more]

    def start(self, *more: str, kind: str = "", cold: bool = False, **env: str) -> Running:
        """Start an export."""
        words = self.words(*more, kind=kind)
        if cold:
            return Running(words, self.folder, self.streams, **env)
        return RunningWarm(self.warm, words, self.folder, self.streams, **env)


class AccidentTests:
    """Everything that may happen to an export to one format."""

    format: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    # What a format has a part in; the rest is core's, and `AllAccidents` tries it.
    killed: ClassVar[tuple[tuple[signal.Signals, str], ...]] = (
        (signal.SIGINT, "convert"),
        (signal.SIGTERM, "verify"),
    )
    rooms: ClassVar[tuple[str, ...]] = ("a third", "all but the last")
    ends: ClassVar[tuple[str, ...]] = ("segfault",)

    @classmethod
    def suffix(cls) -> str:
        """The format's own."""
        from timmx_core.plugins.manager import get_manager

        return get_manager().backend(cls.format).suffixes[0]

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with the plugin of bad formats."""
        folder = tmp_path_factory.mktemp("site")
        source = (SUPPORT / "accident_plugin.py").read_text()
        fake_dist(folder, "timmx-accidents", "1.0", source)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def warm(cls, site: Path) -> Iterator[Warm]:
        """A process that exports are forked from."""
        env = {"PYTHONPATH": str(site), "ACCIDENT_FORMATS": cls.format, "OMP_NUM_THREADS": "1"}
        with Warm(os.environ | env) as warm:
            yield warm

    @pytest.fixture(scope="class")
    @classmethod
    def good(cls, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with a good file of other weights, and nothing else."""
        place = Place(cls, warm, tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("s"))
        ended = place.start("--seed", "7").end()
        assert ended.code == 0, ended.err
        return place.folder

    @pytest.fixture
    def place(self, warm: Warm, tmp_path: Path) -> Place:
        """An empty folder."""
        (tmp_path / "work").mkdir()
        return Place(type(self), warm, tmp_path / "work", tmp_path / "streams")

    @pytest.fixture
    def old(self, place: Place, good: Path) -> Place:
        """A folder with an earlier good file."""
        shutil.copytree(good, place.folder, dirs_exist_ok=True)
        return place

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The accidents of this class."""
        case: Any = metafunc.cls
        if {"number", "stage"} <= set(metafunc.fixturenames):
            ids = [f"{number.name}-{stage}" for number, stage in case.killed]
            metafunc.parametrize(("number", "stage"), case.killed, ids=ids)
        for name, values in (("room", case.rooms), ("end", case.ends)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values)

    def test_killed(self, old: Place, number: signal.Signals, stage: str) -> None:
        """The earlier file stays, or a complete new one is there; no process goes on."""
        before = digests(old.folder)
        # One of the stages from a cold start, as a user has it.
        running = old.start("--overwrite", cold=stage == "convert")
        running.reach(stage)
        children = running.signal(number)
        ended = running.end()
        finished = ended.code == 0 and stage == "publish"  # it was quicker than the signal
        assert ended.code == SIGNALS[number] or finished, ended.err
        if number != signal.SIGKILL:
            assert staging_folders(old.folder) == [], "left behind at once"
            assert "Traceback" not in ended.err
        assert trouble_in(old.folder, old.target, before, lost=not finished) == ""
        assert gone(children)

    def test_the_disk_is_full(self, place: Place, good: Path, room: str) -> None:
        """Exit code 8, one line and a hint, and the disk as it was."""
        sizes = {p.name: p.stat().st_size for p in good.iterdir()}
        record = record_path(place.target).name
        parts = sum(-(-n // PAGE) * PAGE for name, n in sizes.items() if name != record)
        # Verification keeps eight probes there, its outputs and its result, all with their pages.
        scratch = 8 * 3 * 64 * 64 * 4 + 3 * PAGE
        size = {
            "none": PAGE,
            "a third": parts // 3,
            "all but the last": parts - 2 * PAGE,
            "all but the record": parts + scratch + PAGE,
        }[room]
        with small_disk(place.folder, size) as disk:
            ended = place.start("--model-kwarg", "drop_rate=0.0").end()
            assert ended.code == 8, ended.err
            assert [line.split(":")[0] for line in ended.said][:2] == ["error", "hint"]
            assert "no space left on the disk of" in ended.said[0]
            assert ended.out == ""
            assert ("\nverify " in ended.err) == (room == "all but the record")
            assert list(disk.iterdir()) == []

    def test_the_folder_is_read_only(self, place: Place) -> None:
        """Told before torch is imported."""
        with small_disk(place.folder, 1 << 20, read_only=True) as disk:
            ended = Running(place.words(), place.streams.parent, place.streams).end()
            assert ended.code == 8
            assert len(ended.said) == 2, ended.err
            assert "no permission to write" in ended.said[0]
            assert "build" not in ended.err
            assert list(disk.iterdir()) == []

    @pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=["plain", "overwrite"])
    def test_the_output_is_a_directory(self, place: Place, more: tuple[str, ...]) -> None:
        """Told at once where the format writes files; what is in it stays."""
        mine = place.folder / "mine"
        mine.mkdir()
        (mine / "precious").write_text("x")
        before = digests(place.folder)
        words = place.words(*more, target=mine)
        ended = Running(words, place.folder, place.streams).end()
        assert ended.code == 8, ended.err
        assert "is a directory" in ended.said[0]
        assert len(ended.said) == 2
        assert "build" not in ended.err
        assert digests(place.folder) == before

    def test_the_file_is_the_end_of_its_process(self, old: Place, tmp_path: Path, end: str) -> None:
        """A verdict and not the end of the command; and a home on a full disk hides nothing."""
        before = digests(old.folder)
        with small_disk(tmp_path / "home", 1 << 20) as home:
            fill(home)
            timeout = "2" if end == "hang" else str(int(PATIENCE))
            ended = old.start(
                "--overwrite",
                "--verify-timeout",
                timeout,
                kind=end,
                TIMMX_VERIFY_MEMORY_GB="1",
                TIMMX_HOME=str(home),
                TMPDIR=str(home),
            ).end()
        assert ended.code == 7, ended.err
        assert ENDS[end] in ended.said[0]
        assert [line.split(":")[0] for line in ended.said] == ["error", "hint"]
        assert staging_folders(old.folder) == []
        assert trouble_in(old.folder, old.target, before, lost=True) == ""

    def test_home_and_temporary_folder_are_full(self, place: Place, tmp_path: Path) -> None:
        """Neither is needed for an export, nor for verifying it later."""
        with small_disk(tmp_path / "home", 1 << 20) as home:
            fill(home)
            env = {"TIMMX_HOME": str(home), "TMPDIR": str(home)}
            ended = place.start(**env).end()
            assert ended.code == 0, ended.err
            words = ["verify", str(place.target)]
            again = RunningWarm(place.warm, words, place.folder, place.streams, **env).end()
            assert again.code == 0, again.err
        assert trouble_in(place.folder, place.target, {}, lost=False) == ""


class AllAccidents(AccidentTests):
    """Each signal at each stage, and all else that core sees to: one format is enough."""

    killed = tuple((number, stage) for stage in BEGUN for number in SIGNALS)
    rooms: ClassVar[tuple[str, ...]] = ("none", "a third", "all but the last", "all but the record")
    ends: ClassVar[tuple[str, ...]] = tuple(ENDS)

    def test_two_race_for_a_name(self, place: Place) -> None:
        """One wins, the other is told that the file exists."""
        runs = [place.start("--seed", str(seed)) for seed in (1, 2)]
        ended = sorted((run.end() for run in runs), key=lambda e: e.code)
        assert [e.code for e in ended] == [0, 8], [e.err for e in ended]
        assert "exists already" in ended[1].said[0]
        assert len(ended[1].said) == 2
        assert trouble_in(place.folder, place.target, {}, lost=False) == ""

    def test_two_race_to_replace_a_file(self, old: Place) -> None:
        """Both succeed, and what is there is one of them and not a mixture."""
        runs = [old.start("--overwrite", "--seed", str(seed)) for seed in (1, 2)]
        ended = [run.end() for run in runs]
        assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
        assert trouble_in(old.folder, old.target, {}, lost=False) == ""
