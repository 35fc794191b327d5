"""Time and memory of an export beside another program's, and keep both as JSON.

    python benchmarks/beside.py coreml "other export coreml {model} --output {output}"
    python benchmarks/beside.py coreml "..." --models resnet18 --runs 5

The two take turns, so that a machine that is busy for a while is so for both. Time is that of the
whole command, memory the greatest of all its processes together, each page counted once. Needs
Linux. The tables of the documentation are made from the JSON by `benchmarks/tables.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
MODELS = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto")
EVERY = 0.1  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    megabytes: float


def cost(command: list[str]) -> Cost:
    """Run a command to its end.

    :raises RuntimeError: it failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        watcher.join()
        if code:
            log.seek(0)
            raise RuntimeError(f"{shlex.join(command)}: exit code {code}\n{log.read()[-2000:]}")
    return Cost(seconds, peak[0] / 1e6)


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        with suppress(psutil.Error):
            own = psutil.Process(process.pid)
            family = [own, *own.children(recursive=True)]
            peak[0] = max(peak[0], sum(_memory(member) for member in family))
        time.sleep(EVERY)


def _memory(process: psutil.Process) -> int:
    """Bytes, of shared pages its share; 0 for a process that has just ended."""
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def compare(format: str, other: str, model: str, options: list[str], runs: int) -> dict[str, Any]:
    """Both in turn; the first of each is not counted, since it fills caches."""
    found: dict[str, list[Cost]] = {"timmx": [], "other": []}
    for number in range(runs + 1):
        for who, costs in found.items():
            with tempfile.TemporaryDirectory() as folder:
                output = str(Path(folder) / f"model{_suffix(format)}")
                ours = [sys.executable, "-m", "timmx_core", format, model, *options]
                words = shlex.split(other.format(model=model, output=output))
                result = cost([*ours, "-o", output] if who == "timmx" else words)
            if number:
                costs.append(result)
    return {
        who: {
            "seconds": [round(c.seconds, 2) for c in costs],
            "megabytes": [round(c.megabytes) for c in costs],
        }
        for who, costs in found.items()
    } | {
        "ratio_seconds": _ratio(found, "seconds"),
        "ratio_megabytes": _ratio(found, "megabytes"),
    }


def _ratio(found: dict[str, list[Cost]], what: str) -> float:
    """The median over the turns: both halves of a turn met the same load."""
    pairs = zip(found["timmx"], found["other"], strict=True)
    return round(statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs), 2)


def _suffix(format: str) -> str:
    from timmx_core.plugins import get_manager

    return get_manager().backend(format).suffixes[0]


def main() -> None:
    """Compare, saving after every model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format")
    parser.add_argument("other", help="a command with {model} and {output}")
    parser.add_argument("--name", default="the other", help="of the other program, for the table")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen, options = parser.parse_known_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    out = RESULTS / f"beside-{chosen.format}.json"
    rows: dict[str, Any] = json.loads(out.read_text())["rows"] if out.exists() else {}
    for model in chosen.models.split(","):
        rows[model] = compare(chosen.format, chosen.other, model, options, chosen.runs)
        print(model, rows[model], flush=True)
        content = {
            "other": chosen.name,
            "threads": chosen.threads,
            "options": options,
            "rows": rows,
        }
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
