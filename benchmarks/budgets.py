"""Time, processor and memory of our commands beside those of another `timmx` on the same machine.

    python benchmarks/budgets.py --peer /path/to/other/environment/bin/timmx
    python benchmarks/budgets.py --peer ... --only help,list --rounds 5

`python -m venv other && other/bin/pip install "timmx[onnx,coreml]==0.10.1" "numpy<2.4"` makes that
environment (coremltools 9 traces no transformer with a newer numpy); the same release of torch must
be in both, or the ratios say nothing. LiteRT and ExecuTorch want environments of their own, on both
sides, and `--only litert` or `--only executorch`. Runs are interleaved: ours,
theirs, ours, theirs, and the median of each counts. Memory is the largest single process; the most
that all processes of a run held at one moment stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results" / "budgets.json"
OURS = Path(sys.executable).with_name("timmx")
POLL = 0.02  # seconds
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One thing to do, by either program. {out} is where to write."""

    name: str
    ours: str
    theirs: str
    seconds: float  # the most that ours may take, as a part of theirs
    memory: float | None  # likewise


CASES = (
    Case("help", "--help", "--help", 1 / 12, None),
    Case("version", "--version", "--version", 1 / 12, None),
    Case("plugins", "plugins list", "doctor", 1 / 12, None),
    Case("list", "list resnet*", "list resnet*", 1 / 10, None),
    *(
        Case(
            f"{format} {model}",
            f"{format} {model} -o {{out}}",
            f"export {format} {model} --output {{out}}",
            most,
            most,
        )
        for format, model, most in (
            ("onnx", "resnet18", 0.9),
            ("onnx", "vit_tiny_patch16_224", 0.9),
            ("onnx", "efficientnet_b0", 0.9),
            ("torch-export", "resnet18", 1.0),
            ("torchscript", "resnet18", 1.0),
            ("coreml", "resnet18", 1.0),
            ("coreml", "vit_tiny_patch16_224", 1.0),
            ("litert", "resnet18", 1.0),
            ("litert", "vit_tiny_patch16_224", 1.0),
            ("litert", "efficientnet_b0", 1.0),
            ("litert", "fastvit_t8", 1.0),
            ("executorch", "resnet18", 1.0),
            ("executorch", "vit_tiny_patch16_224", 1.0),
            ("executorch", "efficientnet_b0", 1.0),
        )
    ),
)
SUFFIX = {
    "coreml": ".mlpackage",
    "executorch": ".pte",
    "litert": ".tflite",
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "torchscript": ".pt",
}


@dataclass
class Run:
    """What one run took."""

    seconds: float
    processor: float
    largest: float  # MiB, of one process
    together: float  # MiB, of all processes at one moment


def run(program: Path, words: Sequence[str], folder: Path) -> Run:
    """:raises SystemExit: it fails, and then there is nothing to compare."""
    start = time.perf_counter()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen([program, *words], cwd=folder, stdout=said, stderr=said)
        largest, together = _watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{program} {' '.join(words)}\n{said.read()}")
    main = usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    processor = usage.ru_utime + usage.ru_stime
    return Run(seconds, processor, max(main, largest), max(main, together))


def _watch(number: int) -> tuple[float, float]:
    """MiB that the largest process and all together held, until the first of them has ended."""
    largest = together = 0.0
    try:
        process = psutil.Process(number)
        while process.status() != psutil.STATUS_ZOMBIE:
            held = []
            for each in (process, *process.children(recursive=True)):
                try:
                    held.append(each.memory_info().rss / MIB)
                except psutil.Error:
                    continue
            largest, together = max([largest, *held]), max(together, sum(held))
            time.sleep(POLL)
    except psutil.Error:
        pass  # ended between two looks
    return largest, together


def measure(case: Case, peer: Path, rounds: int) -> dict[str, Any]:
    """Medians of both, and their ratios. The first run of each, which warms caches, is not kept."""
    kept: dict[Path, list[Run]] = {OURS: [], peer: []}
    for number in range(rounds + 1):
        for program, words in ((OURS, case.ours), (peer, case.theirs)):
            with tempfile.TemporaryDirectory() as folder:
                out = f"model{SUFFIX.get(case.name.split()[0], '')}"
                taken = run(program, words.format(out=out).split(), Path(folder))
            if number:
                kept[program].append(taken)
    ours, theirs = _medians(kept[OURS]), _medians(kept[peer])
    ratios = {key: round(ours[key] / theirs[key], 3) for key in ours}
    return {
        "ours": ours,
        "theirs": theirs,
        "ratio": ratios,
        "budget": {"seconds": case.seconds, "largest": case.memory},
        "rounds": rounds,
        "versions": {"ours": _versions(OURS), "theirs": _versions(peer)},
        "kept": [[asdict(a), asdict(b)] for a, b in zip(kept[OURS], kept[peer], strict=True)],
    }


def _medians(runs: list[Run]) -> dict[str, float]:
    keys = asdict(runs[0])
    return {key: round(median(getattr(each, key) for each in runs), 3) for key in keys}


def _versions(program: Path) -> str:
    """Of torch and timmx, in the environment of a program."""
    code = (
        "from importlib import metadata as m\n"
        "names = ('timmx', 'timmx-core', 'torch', 'timm', 'onnx', 'onnxruntime', 'litert-torch', "
        "'executorch')\n"
        "have = {d.name: d.version for d in m.distributions()}\n"
        "print(', '.join(f'{n} {have[n]}' for n in names if n in have))"
    )
    python = program.with_name("python")
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    """Measure what is asked for, saving after every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="the other timmx's executable")
    parser.add_argument("--only", default="", help="beginnings of cases' names, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    content: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    content["command"] = "python benchmarks/budgets.py --peer PATH"
    only = tuple(part for part in chosen.only.split(",") if part)
    for case in CASES:
        if only and not case.name.startswith(only):
            continue
        row = measure(case, chosen.peer.absolute(), chosen.rounds)
        content["rows"][case.name] = row
        print(case.name, row["ratio"], flush=True)
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
