"""Let accidents befall exports at random moments, and keep what each left behind as JSON.

    python benchmarks/accidents.py                  # 500 of them over all formats
    python benchmarks/accidents.py --count 50 --formats onnx torchscript

Kills of the command and of the verification's process, disks of random sizes, files that crash,
hang or eat memory, two exports of which one is killed. Each is drawn from the seed and its number,
so a run that was stopped goes on where it was; moments depend on the machine's load all the same.
Needs Linux and root, for small file systems.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
# Threads that wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import accident_trials  # noqa: E402
import psutil  # noqa: E402
from accident_trials import AccidentTests, Ended, Place  # noqa: E402
from warm_timmx import Warm  # noqa: E402

from timmx_core.files.manifest import versions_of  # noqa: E402
from timmx_core.testing.distributions import fake_dist  # noqa: E402

RESULT = HERE / "results" / "accidents.json"
FORMATS = {
    "onnx": (),
    "onnx, external data": ("--external-data", "always"),
    "torch-export": (),
    "torchscript": (),
}
# How often each kind comes.
KINDS = {
    "kill": 40,
    "kill while publishing": 15,
    "kill of the verification": 8,
    "full disk": 22,
    "segfault": 3,
    "hang": 3,
    "memory": 3,
    "race, one killed": 6,
}
NUMBERS = {9: "SIGKILL", 2: "SIGINT", 15: "SIGTERM"}
ENDS = {9: -9, 2: 130, 15: 143}


@dataclass
class Lab:
    """One format: a warm process, a good file, and how long an export takes."""

    name: str
    tests: type[AccidentTests]
    warm: Warm
    root: Path
    good: Path
    seconds: float = 0.0
    size: int = 0
    runs: int = field(default=0)

    def place(self) -> Place:
        """An empty folder."""
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        (folder / "work").mkdir(parents=True)
        return Place(self.tests, self.warm, folder / "work", folder / "streams")


@dataclass
class Happened:
    """What an accident led to."""

    detail: str
    ended: list[Ended]
    codes: set[int]  # those that are documented for it
    processes: list[psutil.Process] = field(default_factory=list)
    told: bool = True  # a failure with a code of timmx's has an error and a hint


def kill(lab: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
    """A signal at any moment."""
    number = draw.choice(list(NUMBERS))
    moment = draw.random()
    running = place.start(*words)
    time.sleep(moment * lab.seconds)
    children = running.signal(number)
    # 0: it was done by then.
    return Happened(
        f"{NUMBERS[number]} at {moment:.3f}", [running.end()], {ENDS[number], 0}, children
    )


def kill_publishing(lab: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
    """A signal right before one of the files is put in place."""
    number = draw.choice(list(NUMBERS))
    step = draw.randint(1, 3 if "external" in lab.name else 2)
    ended = place.start(*words, ACCIDENT_KILL=f"{step}:{number}").end()
    return Happened(f"{NUMBERS[number]} before file {step}", [ended], {ENDS[number]})


def kill_verification(lab: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
    """SIGKILL of the process that runs the file."""
    moment = draw.random()
    running = place.start(*words)
    time.sleep(moment * lab.seconds)
    children = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(running.pid).children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    return Happened(f"{len(children)} at {moment:.3f}", [running.end()], {0, 7}, children)


def full_disk(lab: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
    """A disk of any size up to a little more than what is needed."""
    old = sum(p.stat().st_size for p in place.folder.iterdir())
    room = int(draw.random() * 1.1 * lab.size)
    files = {p.name: p.read_bytes() for p in place.folder.iterdir()}
    with accident_trials.small_disk(place.folder, old + room + accident_trials.PAGE * 4) as disk:
        for name, data in files.items():
            (disk / name).write_bytes(data)
        ended = place.start(*words).end()
        shutil.copytree(disk, place.streams / "disk", dirs_exist_ok=True)
    shutil.rmtree(place.folder)
    shutil.copytree(place.streams / "disk", place.folder)
    return Happened(f"{room / lab.size:.3f} of the room", [ended], {0, 8})


def bad_file(kind: str) -> Callable[..., Happened]:
    """A file that ends its process, or never does."""

    def happen(_: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
        timeout = str(draw.randint(1, 4)) if kind == "hang" else "600"
        words = [*words, "--verify-timeout", timeout]
        ended = place.start(*words, kind=kind, TIMMX_VERIFY_MEMORY_GB="1").end()
        return Happened(timeout if kind == "hang" else "", [ended], {7})

    return happen


def race(lab: Lab, place: Place, draw: random.Random, words: list[str]) -> Happened:
    """Two exports to one name; one is killed at any moment."""
    number, moment = draw.choice(list(NUMBERS)), draw.random()
    runs = [place.start(*words, "--seed", str(seed)) for seed in (1, 2)]
    time.sleep(moment * lab.seconds * 1.5)
    children = runs[0].signal(number)
    ended = [run.end() for run in runs]
    return Happened(f"{NUMBERS[number]} at {moment:.3f}", ended, {ENDS[number], 0, 8}, children)


HAPPEN: dict[str, Callable[[Lab, Place, random.Random, list[str]], Happened]] = {
    "kill": kill,
    "kill while publishing": kill_publishing,
    "kill of the verification": kill_verification,
    "full disk": full_disk,
    "segfault": bad_file("segfault"),
    "hang": bad_file("hang"),
    "memory": bad_file("glutton"),
    "race, one killed": race,
}


def open_lab(name: str, root: Path, stack: ExitStack) -> Lab:
    """Start the process that exports to a format are forked from, and make a good file."""
    format = name.partition(",")[0]
    tests = type("Tests", (AccidentTests,), {"format": format, "options": FORMATS[name]})
    site = root / "site"
    source = (accident_trials.SUPPORT / "accident_plugin.py").read_text()
    fake_dist(site, "timmx-accidents", "1.0", source)
    env = {"PYTHONPATH": str(site), "ACCIDENT_FORMATS": format, "TIMMX_HOME": str(root / "home")}
    warm = stack.enter_context(Warm(os.environ | env))
    lab = Lab(name, tests, warm, root, root / "good")
    place = lab.place()
    for more in ("--seed", "7"), ("--seed", "8", "--overwrite"):
        start = time.monotonic()
        ended = place.start(*more).end()
        lab.seconds = time.monotonic() - start
        assert ended.code == 0, ended.err
    shutil.copytree(place.folder, lab.good)
    pixels = 8 * 3 * 64 * 64 * 4
    lab.size = sum(p.stat().st_size for p in lab.good.iterdir()) + pixels + 4 * accident_trials.PAGE
    return lab


def try_one(lab: Lab, kind: str, draw: random.Random) -> dict[str, Any]:
    """Let one accident happen, and look at what is left."""
    place = lab.place()
    words = ["--seed", "9"]
    with_old = draw.random() < 0.5
    if with_old:
        shutil.copytree(lab.good, place.folder, dirs_exist_ok=True)
        words.append("--overwrite")
    before = accident_trials.digests(place.folder)
    start = time.monotonic()
    happened = HAPPEN[kind](lab, place, draw, words)
    took = time.monotonic() - start
    if kind == "kill" and happened.ended[0].code == 0:
        lab.seconds = 0.5 * lab.seconds + 0.5 * took
    codes = [ended.code for ended in happened.ended]
    lost = 0 not in codes
    left = accident_trials.staging_folders(place.folder)
    troubles = [accident_trials.trouble_in(place.folder, place.target, before, lost=lost)]
    troubles += [f"exit code {code}" for code in codes if code not in happened.codes]
    if left and -9 not in codes:
        troubles.append(f"left behind at once: {left}")
    for ended in happened.ended:
        heads = [line.split(":")[0] for line in ended.said]
        if "Traceback" in ended.err or (ended.code in (7, 8) and heads[:2] != ["error", "hint"]):
            troubles.append(f"said {ended.err[-2000:]!r}")
    if not accident_trials.gone(happened.processes):
        troubles.append("processes go on")
    after = accident_trials.digests(place.folder)
    row = {
        "kind": kind,
        "format": lab.name,
        "earlier file": with_old,
        "detail": happened.detail,
        "codes": codes,
        "target": "absent" if not after else "as before" if after == before else "new",
        "trouble": "; ".join(t for t in troubles if t),
    }
    if not row["trouble"]:
        shutil.rmtree(place.folder.parent)
    return row


def tally(rows: list[dict[str, Any]]) -> list[str]:
    """How the accidents ended, by kind."""
    lines = [f"{'accident':<26}{'number':>7}{'absent':>8}{'as before':>11}{'new':>6}{'trouble':>9}"]
    for kind in [*KINDS, "all"]:
        mine = [row for row in rows if kind in (row["kind"], "all")]
        ends = collections.Counter(row["target"] for row in mine)
        bad = sum(bool(row["trouble"]) for row in mine)
        counts = f"{ends['absent']:>8}{ends['as before']:>11}{ends['new']:>6}{bad:>9}"
        lines.append(f"{kind:<26}{len(mine):>7}{counts}")
    return lines + [f"trouble: {row}" for row in rows if row["trouble"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--again", action="store_true", help="start afresh")
    given = parser.parse_args()
    kept = json.loads(RESULT.read_text()) if RESULT.exists() and not given.again else {}
    if kept.get("seed") != given.seed:
        kept = {}
    rows: list[dict[str, Any]] = kept.get("rows", [])
    done = {row["number"] for row in rows}
    labs: dict[str, Lab] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        for index in range(given.count):
            if index in done:
                continue
            draw = random.Random(f"{given.seed}:{index}")
            name = given.formats[index % len(given.formats)]
            if name not in labs:
                root = Path(folder) / str(len(labs))
                root.mkdir()
                labs[name] = open_lab(name, root, stack)
            (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
            rows.append({"number": index} | try_one(labs[name], kind, draw))
            print(index, rows[-1], flush=True)
            result = {
                "versions": versions_of(
                    ["timmx-core", "timmx-onnx", "timmx-torch", "torch", "timm", "onnxruntime"]
                ),
                "model": accident_trials.MODEL,
                "seed": given.seed,
                "rows": rows,
            }
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(tally(rows)))


if __name__ == "__main__":
    main()
