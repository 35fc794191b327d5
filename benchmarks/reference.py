"""Export the reference architectures to one format, verify each, and keep the results as JSON.

    python benchmarks/reference.py onnx                  # all of them; finished rows are kept
    python benchmarks/reference.py onnx --only resnet18  # these rows again
    python benchmarks/reference.py torch-export --dynamic-batch

The tables of the documentation are made from the JSON by `benchmarks/tables.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ARCHITECTURES = (
    "resnet18",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "fastvit_t8",
    "mobilevit_xxs",
    "repvgg_a0",
    "mobileone_s0",
    "efficientvit_b0",
    "efficientvim_m1",
    "maxvit_rmlp_pico_rw_256",
    "edgenext_xx_small",
    "hiera_tiny_224",
    "gmlp_ti16_224",
    "lcnetv2_small",
    "sequencer2d_s",
)
CASES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    *((name, name, ()) for name in ARCHITECTURES),
    ("resnet18, 1 channel", "resnet18", ("--in-chans", "1")),
    ("resnet18, 5 channels", "resnet18", ("--in-chans", "5")),
    ("resnet18, feature pyramid", "resnet18", ("--features",)),
    ("vit_tiny_patch16_224, embedding", "vit_tiny_patch16_224", ("--embedding",)),
)


def run_case(
    format: str,
    model: str,
    options: tuple[str, ...],
    timeout: float,
    program: Sequence[str] = (sys.executable, "-m", "timmx_core"),
) -> dict[str, Any]:
    """One export through the command line, as a user would do it.

    :param program: what a user would type as `timmx`.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(*program, format, model, *options),
            *("--json", "-o", str(Path(folder) / f"model{suffix_of(format)}")),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"exit_code": None, "status": "timeout", "reason": f"over {timeout:g} s"}
    row = row_of(done)
    return row | {"exit_code": done.returncode, "seconds": round(time.perf_counter() - start, 1)}


def suffix_of(format: str) -> str:
    """The format's own first suffix."""
    from timmx_core.plugins.manager import get_manager

    return get_manager().backend(format).suffixes[0]


def row_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` said, in short."""
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"status": "crash", "reason": (done.stderr.strip().splitlines() or [""])[-1][:300]}
    if "error" in answer:
        return {"status": answer["error"]["type"], "reason": answer["error"]["message"]}
    rows = [m for m in answer["verdict"]["measurements"] if m["snr_db"] is not None]
    worst: dict[str, Any] = min(rows, key=lambda m: m["snr_db"] - m["floor_db"], default={})
    row = {
        "status": answer["verdict"]["status"],
        "reason": answer["verdict"]["reason"],
        "kind": answer["verdict"]["kind"],
        "snr_db": worst.get("snr_db"),
        "floor_db": worst.get("floor_db"),
        "top1": worst.get("top1"),
        "max_abs_diff": worst.get("max_abs_diff"),
        "size": answer["size"],
        "notes": answer["notes"],
        "report": answer["manifest"].get("report", {}),
        "versions": answer["manifest"]["versions"],
    }
    if worst.get("comparison", "file") != "file":
        row["comparison"] = worst["comparison"]
    built = answer["manifest"]["report"]
    if "layers" in built:
        row |= {"layers": built["layers"], "build_seconds": seconds(answer, "build the engine")}
    return row


def seconds(answer: dict[str, Any], label: str) -> float | None:
    """What one stage took."""
    found = [took for name, took in answer["seconds"].items() if name.endswith(label)]
    return round(found[0], 1) if found else None


def main() -> None:
    """Run what is missing, saving after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format")
    parser.add_argument("--only", default="", help="labels or models, with commas")
    parser.add_argument("--again", action="store_true", help="run finished rows again")
    parser.add_argument("--dynamic-batch", action="store_true")
    parser.add_argument("--precision", default="")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--out", type=Path)
    chosen, extra = parser.parse_known_args()
    name = "-".join(
        part
        for part in (
            chosen.format,
            chosen.precision,
            "dynamic" if chosen.dynamic_batch else "",
        )
        if part
    )
    out = chosen.out or RESULTS / f"reference-{name}.json"
    more = (*extra, *(("--dynamic-batch",) if chosen.dynamic_batch else ()))
    if chosen.precision:
        more = (*more, "--precision", chosen.precision)
    run_all(chosen, more, out)


def run_all(chosen: argparse.Namespace, more: tuple[str, ...], out: Path) -> None:
    """Every case that is asked for and not there yet."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else {}
    only = {part for part in chosen.only.split(",") if part}
    for label, model, options in CASES:
        if only and not {label, model} & only:
            continue
        if label in rows and not (chosen.again or only):
            continue
        rows[label] = run_case(chosen.format, model, (*options, *more), chosen.timeout)
        rows[label] |= {"model": model, "options": [*options, *more]}
        print(label, rows[label]["status"], rows[label].get("snr_db"), rows[label].get("reason"))
        ordered = {case[0]: rows[case[0]] for case in CASES if case[0] in rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        command = "python benchmarks/reference.py " + " ".join(sys.argv[1:])
        out.write_text(json.dumps({"command": command, "rows": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
