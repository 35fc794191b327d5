"""All tests, each folder in its environment: `python scripts/test.py [NAME...]`.

`hatch test --all` ends with the first environment whose tests fail, and says nothing of the rest.
This runs `hatch test -i name=NAME` for every name of the matrix in `pyproject.toml`, whatever
became of those before, shows what they print, ends with a table and fails if one of them failed.
hatch is that of the Python that runs this.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = re.compile(r"=* ?((?:\d+ [a-z]+, )*\d+ [a-z]+ in [\d.]+s)\b")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """What became of one environment."""

    name: str
    code: int
    seconds: float
    summary: str  # pytest's last line; empty where it did not come to that

    def __str__(self) -> str:
        state = "passed" if self.code == 0 else f"failed ({self.code})"
        return f"{self.name:<12} {state:<12} {self.seconds:7.0f} s  {self.summary}".rstrip()


def names_in(project: Path) -> list[str]:
    """The names of the matrix of test environments."""
    with project.open("rb") as file:
        (matrix,) = tomllib.load(file)["tool"]["hatch"]["envs"]["hatch-test"]["matrix"]
    return list(matrix["name"])


def command_of(name: str) -> list[str]:
    return [sys.executable, "-m", "hatch", "test", "-i", f"name={name}"]


def run(name: str, command: Sequence[str]) -> Outcome:
    """Run one environment's tests; what they print is shown as it comes."""
    start, summary = time.monotonic(), ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            sys.stdout.buffer.write(raw)
            sys.stdout.buffer.flush()
            found = SUMMARY.search(COLOURS.sub("", raw.decode("utf-8", "replace")))
            summary = found.group(1) if found else summary
    return Outcome(name, process.returncode, time.monotonic() - start, summary)


def main(
    chosen: Sequence[str],
    project: Path = ROOT / "pyproject.toml",
    command_of: Callable[[str], Sequence[str]] = command_of,
) -> int:
    """All of the chosen names, or of the matrix; 0 if all passed."""
    names = names_in(project)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        print(f"{', '.join(unknown)}: no such environment; there are {', '.join(names)}")
        return 2
    outcomes = []
    for name in chosen or names:
        print(f"\n=== tests/{name}", flush=True)
        outcomes.append(run(name, command_of(name)))
    failed = [outcome.name for outcome in outcomes if outcome.code]
    print("\n=== all", *outcomes, sep="\n")
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
