"""Export the smallest architecture of each of timm's families in every precision of one format.

    python benchmarks/families.py onnx             # finished rows are kept: run it again to go on
    python benchmarks/families.py onnx --only vit,resnet
    python benchmarks/families.py onnx --limit 40  # the 40 smallest
    python benchmarks/families.py onnx --precisions int8 --again

Each precision is verified as an export of its own; what the precisions share, the captured model
and its float graph, is made once for a family. Calibrated precisions use synthetic images, since
the weights are random. One process for each family: a crash is a row, and so is a timeout.

`python benchmarks/smallest.py` made the list, `python benchmarks/distribution.py onnx` draws the
picture, and `python benchmarks/tables.py` the tables of the documentation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results"
SAMPLES = 16  # to calibrate with


@contextlib.contextmanager
def shared_conversion() -> Iterator[None]:
    """Capture and convert a model once for all precisions; what is kept is never changed."""
    from timmx_core.toolkit.capture import Capturer
    from timmx_onnx import converter

    capture, convert = Capturer.__call__, converter.convert
    kept: list[Any] = []

    def capture_once(self: Capturer, *given: Any, **named: Any) -> Any:
        return None if kept else capture(self, *given, **named)

    def convert_once(*given: Any) -> Any:
        if not kept:
            kept.append(convert(*given))
        return kept[0].clone()

    setattr(Capturer, "__call__", capture_once)  # noqa: B010
    setattr(converter, "convert", convert_once)  # noqa: B010
    try:
        yield
    finally:
        setattr(Capturer, "__call__", capture)  # noqa: B010
        setattr(converter, "convert", convert)  # noqa: B010


def precisions_of(format: str, names: str) -> list[Any]:
    """Those of the format that are asked for, with commas; all of them where none is."""
    from timmx_core.plugins.manager import get_manager

    asked = {part for part in names.split(",") if part}
    known = get_manager().backend(format).precisions
    return [p for p in known if not asked or p.name in asked]


def run_family(format: str, model: str, precisions: list[Any], pipe: int) -> None:
    """Every precision, and what became of each as a line of JSON in the pipe."""
    shared = shared_conversion() if format == "onnx" else contextlib.nullcontext()
    with shared, tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            row = run_one(format, model, precision.name, precision.calibrated, Path(folder))
            os.write(pipe, (json.dumps({precision.name: row}) + "\n").encode())


def run_one(
    format: str, model: str, precision: str, calibrated: bool, folder: Path
) -> dict[str, Any]:
    """One export."""
    import timmx_core
    from timmx_core.errors import TimmxError, VerificationError
    from timmx_core.plugins.manager import get_manager

    start = time.perf_counter()
    options: dict[str, Any] = {"accept_inconclusive": True}
    if calibrated:
        options |= {"random_calibration": True, "calibration_samples": SAMPLES}
    output = folder / f"{precision}{get_manager().backend(format).suffixes[0]}"
    try:
        result = timmx_core.export(
            format, model, precision=precision, output=str(output), **options
        )
        row = figures(result.verdict) | {"size": result.size, "notes": list(result.notes)}
    except VerificationError as error:
        verdict = error.verdict
        row = figures(verdict) if verdict is not None else {"status": "failed"}
    except TimmxError as error:
        row = {"status": type(error).__name__, "reason": error.message}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row
        row = {"status": "crash", "reason": f"{type(error).__name__}: {error}"[:300]}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def figures(verdict: Any) -> dict[str, Any]:
    """The worst of the file, and of what it was compared with beside it."""
    worst: dict[str, float] = {}
    top1 = [m.top1 for m in verdict.measurements if m.comparison == "file" and m.top1 is not None]
    for m in verdict.measurements:
        if m.snr_db is not None:
            worst[m.comparison] = min(worst.get(m.comparison, m.snr_db), m.snr_db)
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "snr_db": worst.get("file"),
        "beside": {name: value for name, value in worst.items() if name != "file"},
        "top1": min(top1, default=None),
    }


def in_child(format: str, model: str, precisions: list[Any], timeout: float) -> dict[str, Any]:
    """A family in a process of its own, which inherits what is imported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgrp()
        try:
            run_family(format, model, precisions, writer)
        finally:
            os._exit(0)
    os.close(writer)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.alarm(int(timeout))
    with os.fdopen(reader, "rb") as lines:
        rows: dict[str, Any] = {}
        for line in lines:
            rows |= json.loads(line)
    spent = signal.alarm(0) == 0
    os.waitpid(child, 0)
    missing = {"status": "timeout" if spent else "crash", "reason": f"within {timeout:g} s"}
    return {p.name: rows.get(p.name, missing) for p in precisions}


def main() -> None:
    """Run what is missing, the smallest first, saving after every family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format")
    parser.add_argument("--only", default="", help="families, with commas")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--precisions", default="", help="with commas; by default all")
    parser.add_argument("--again", action="store_true", help="run finished rows again")
    parser.add_argument("--timeout", type=float, default=1800)
    chosen = parser.parse_args()
    out = RESULTS / f"families-{chosen.format}.json"
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    listed = json.loads((RESULTS / "smallest.json").read_text())["rows"]
    only = {part for part in chosen.only.split(",") if part}
    names = sorted(listed, key=lambda family: (listed[family]["parameters"], family))
    import_everything()
    precisions = precisions_of(chosen.format, chosen.precisions)
    for family in names[: chosen.limit]:
        model = listed[family]["model"]
        rows = content["rows"].get(family, {"precisions": {}})["precisions"]
        missing = [p for p in precisions if chosen.again or p.name not in rows]
        if (only and family not in only) or not missing:
            continue
        row = in_child(chosen.format, model, missing, chosen.timeout)
        content["rows"][family] = {"model": model, "precisions": rows | row}
        print(
            family, model, {n: (r["status"], r.get("snr_db")) for n, r in row.items()}, flush=True
        )
        save(content, chosen.format, out)


def import_everything() -> None:
    """What every child would import otherwise; it starts no threads."""
    import warnings

    import timm  # noqa: F401
    import torch  # noqa: F401

    import timmx_core  # noqa: F401

    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"


def save(content: dict[str, Any], format: str, out: Path) -> None:
    """With the versions that it was made with."""
    from timmx_core.files.manifest import versions_of
    from timmx_core.lifecycle.export import requirement_names
    from timmx_core.plugins.manager import get_manager

    names = {"timmx-core", "timm", "torch", *requirement_names(get_manager().backend(format))}
    content["command"] = f"python benchmarks/families.py {format}"
    content["versions"] = versions_of(names)
    content["rows"] = dict(sorted(content["rows"].items()))
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
