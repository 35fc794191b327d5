"""Nothing of what converters print is seen, unless it is asked for or something goes wrong.

    class TestQuietOfMine(QuietTests):
        format = "mine"

Seen on the file descriptors of a process, since C code and other processes write there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from accident_plugin import NOISE
from accident_trials import MODEL, SMALL, SUPPORT, Ended, RunningWarm
from warm_timmx import Warm

from timmx_core.plugins.manager import get_manager
from timmx_core.testing.distributions import fake_dist

# All that an export has to say.
LINES = re.compile(
    r" *[\w ()]+? +\d+\.\d s|note: the weights are random .*|file     .*|input    .*|output   .*"
    r"|         /.*|record   /.*|numbers  .*"  # the first of them: a companion's path
    r"|verdict  verified(?: \(reference interpreter\))?|         SNR .*|         by .*"
)
SCRIPT = """
import sys
from timmx_core import api
from timmx_core.errors import ExportError
for format, output in zip(sys.argv[1::2], sys.argv[2::2]):
    options = dict(input_size=(3, 64, 64), num_classes=10, output=output)
    try:
        api.export(format, "test_resnet", **options)
    except ExportError as error:
        print("log", error.log_path)
        print("tail", error.log_tail.count("noise"))
    print("done")
"""


class QuietTests:
    """What is heard of an export to one format."""

    format: ClassVar[str]
    also: ClassVar[str] = ""  # a pattern of what else it has to say

    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
        """With formats whose converters print in every way there is."""
        site = tmp_path_factory.mktemp("site")
        source = (SUPPORT / "accident_plugin.py").read_text()
        fake_dist(site, "timmx-accidents", "1.0", source)
        return os.environ | {"PYTHONPATH": str(site), "ACCIDENT_FORMATS": cls.format}

    @pytest.fixture(scope="class")
    @classmethod
    def warm(cls, environment: dict[str, str]) -> Iterator[Warm]:
        """A process that exports are forked from."""
        with Warm(environment) as warm:
            yield warm

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        """Where to export to."""
        return tmp_path / f"model{get_manager().backend(self.format).suffixes[0]}"

    def run(self, warm: Warm, target: Path, *words: str, kind: str = "") -> Ended:
        """An export to the end."""
        format = f"{self.format}-{kind}" if kind else self.format
        words = (*words, format, MODEL, *SMALL, "-o", str(target))
        return RunningWarm(warm, words, target.parent, target.parent / "streams").end()

    def test_a_good_export_says_what_it_has_to_say(self, warm: Warm, target: Path) -> None:
        """The path on stdout; stages, notes and the summary on stderr; nothing else."""
        ended = self.run(warm, target, kind="noisy")
        assert ended.code == 0, ended.err
        assert ended.out == f"{target}\n"
        heard = [line for line in ended.err.splitlines() if not LINES.fullmatch(line)]
        assert [line for line in heard if not re.fullmatch(self.also, line)] == []

    def test_verbose_lets_everything_through(self, warm: Warm, target: Path) -> None:
        """To stderr, as it comes; stdout has the path alone."""
        ended = self.run(warm, target, "-v", kind="noisy")
        assert ended.code == 0, ended.err
        assert ended.out == f"{target}\n"
        for way in NOISE:
            assert f"noise {way}" in ended.err

    def test_a_failure_shows_what_matters(self, warm: Warm, target: Path) -> None:
        """The last lines, one line and a hint or a log, and all of it in the log."""
        ended = self.run(warm, target, kind="failing")
        assert ended.code == 6
        assert ended.out == ""
        error, log = ended.said
        assert error == (
            f"error: {self.format}-failing could not convert the model: "
            "RuntimeError: operator 7 is not there"
        )
        text = Path(log.removeprefix("log: ")).read_text()
        for way in NOISE:
            assert f"  | noise {way}" in ended.err or f"noise {way}" in ended.err
            assert f"noise {way}" in text
        assert "Traceback" in text
        assert "and much more" in text

    def test_python_hears_nothing_either(self, environment: dict[str, str], target: Path) -> None:
        """Descriptors and streams are the caller's own again afterwards."""
        other = target.with_stem("other")
        words = [f"{self.format}-noisy", str(target), f"{self.format}-failing", str(other)]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        heard = [line.split()[0] for line in done.stdout.splitlines()]
        assert heard == ["done", "log", "tail", "done"]
        assert done.stderr == ""
        assert "tail 0" not in done.stdout
