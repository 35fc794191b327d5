"""What it costs that a format has an environment of its own, and keep it as JSON.

    timmx plugins install --isolated timmx-onnx
    python benchmarks/dispatch.py onnx
    python benchmarks/dispatch.py onnx --model resnet18 --rounds 7

Each round exports once through the host and once in the environment itself, by its own `timmx`;
the first round warms caches and is not kept. Start-up is that of `timmx --help` of the host, with
all its isolated formats. The host is the environment that this runs in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from timmx_core.isolation.process import environment_variables, isolated_command
from timmx_core.plugins.manager import get_manager

RESULTS = Path(__file__).parent / "results" / "dispatch.json"
HOST = [str(Path(sys.executable).with_name("timmx"))]
MOST_SECONDS = 0.5  # that a dispatched export may take longer


@dataclass(frozen=True)
class Run:
    """What one run took; the memory is that of the largest of its processes, in MiB."""

    seconds: float
    memory: float


def run(command: list[str], variables: dict[str, str]) -> Run:
    """:raises SystemExit: it fails, and then there is nothing to measure."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read()}")
    return Run(seconds, usage.ru_maxrss / 1024)


def export(format: str, model: str, rounds: int) -> dict[str, Any]:
    """Both ways in turns, and by how much the dispatched one is slower."""
    plugin = get_manager().isolated.get(format)
    if plugin is None:
        raise SystemExit(f"{format} is not isolated here: timmx plugins install --isolated")
    words = [format, model, "-o", f"model{get_manager().formats[format].suffixes[0]}"]
    inside = [*isolated_command(plugin.environment.python), *words]
    kept: dict[str, list[Run]] = {"dispatched": [], "inside": []}
    for number in range(rounds + 1):
        pair = {
            "dispatched": run([*HOST, *words], dict(os.environ)),
            "inside": run(inside, environment_variables()),
        }
        for way, taken in pair.items():
            if number:
                kept[way].append(taken)
    medians = {way: round(median(r.seconds for r in runs), 3) for way, runs in kept.items()}
    pairs = zip(kept["dispatched"], kept["inside"], strict=True)
    extra = round(median(a.seconds - b.seconds for a, b in pairs), 3)
    return {
        "model": model,
        "seconds": medians,
        "extra_seconds": extra,
        "budget_seconds": MOST_SECONDS,
        "kept": {way: [round(r.seconds, 3) for r in runs] for way, runs in kept.items()},
    }


def start_up(rounds: int) -> dict[str, Any]:
    """`timmx --help` and `timmx plugins list` of the host."""
    found: dict[str, Any] = {"isolated": sorted(get_manager().isolated)}
    for words in (["--help"], ["plugins", "list"]):
        runs = [run([*HOST, *words], dict(os.environ)) for _ in range(rounds + 1)][1:]
        found[" ".join(words)] = {
            "seconds": round(median(r.seconds for r in runs), 3),
            "mib": round(median(r.memory for r in runs), 1),
        }
    return found


def versions(format: str) -> dict[str, str]:
    """Of what took part."""
    plugin = get_manager().isolated[format]
    found = {"timmx-core": "", plugin.entry.distribution: plugin.entry.version}
    found["timmx-core"] = str(plugin.entry.description["core"])
    found["python"] = str(plugin.entry.description["python"])
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format")
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    content: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    content["command"] = f"python benchmarks/dispatch.py {chosen.format}"
    content["rows"][chosen.format] = export(chosen.format, chosen.model, chosen.rounds)
    content["start_up"] = start_up(chosen.rounds)
    content["versions"] = versions(chosen.format)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    row = content["rows"][chosen.format]
    print(f"{chosen.format} {chosen.model}: {row['seconds']}, {row['extra_seconds']} s more")
    print(content["start_up"])
    if row["extra_seconds"] > MOST_SECONDS:
        raise SystemExit(f"more than {MOST_SECONDS} s")


if __name__ == "__main__":
    main()
