"""Whether files of a network with real weights see in 20 photographs what PyTorch sees.

    python benchmarks/photographs.py onnx
    python benchmarks/photographs.py coreml --image-input --labels imagenet-1k
    python benchmarks/photographs.py coreml --precisions int8 --image-input

`tf_efficientnet_lite0` is exported in every precision of the format; one that is calibrated is so
on ten of the photographs, and the other ten are counted by themselves. Each JPEG goes through the
lines that `timmx inspect --snippet python` gives. The tables of the documentation are made from the
JSON by `benchmarks/tables.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
# Threads that wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import photo_trials  # noqa: E402
import reference  # type: ignore[import-not-found]  # noqa: E402
import testdata  # noqa: E402

from timmx_core.plugins.manager import get_manager  # noqa: E402

RESULTS = HERE / "results"
CALIBRATED = 10


def run_precision(
    format: str, precision: str, options: list[str], model: Path, classes: list[int], folder: Path
) -> dict[str, Any]:
    """Export, then show it the photographs."""
    path = folder / f"{precision}{reference.suffix_of(format)}"
    calibrated = next(
        p.calibrated for p in get_manager().backend(format).precisions if p.name == precision
    )
    if calibrated:
        images = photo_trials.calibration_folder(folder, testdata.photographs()[:CALIBRATED])
        options = [*options, "--calibration-data", images]
    command = [
        *(sys.executable, "-m", "timmx_core", format, f"local-dir:{model}", "--pretrained"),
        *("--precision", precision, *options, "--json", "-o", str(path)),
    ]
    row = reference.row_of(subprocess.run(command, capture_output=True, text=True, check=False))
    if not path.exists():
        return row
    photographs = testdata.photographs()
    row |= {"same_class": 0, "right_class": 0, "right_label": 0, "photographs": len(photographs)}
    names = _labels(path)
    given = photo_trials.outputs_of_file(path, photographs)
    held_back = 0
    for number, (photograph, wanted, outputs) in enumerate(
        zip(photographs, classes, given, strict=True)
    ):
        found = int(np.argmax(outputs[0]))
        row["same_class"] += found == wanted
        held_back += found == wanted and number >= CALIBRATED
        row["right_class"] += found == photograph.label
        if names and len(outputs) > 1:
            # A name that occurs twice gets its number from some formats.
            row["right_label"] += str(outputs[1][0]).startswith(names[found])
    return row | ({"held_back": held_back} if calibrated else {})


def _labels(path: Path) -> list[str]:
    import timmx_core

    return list(timmx_core.inspect(path).manifest["labels"] or ())


def main() -> None:
    """All precisions, saving after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format")
    parser.add_argument("--precisions", default="", help="with commas; all of the format's")
    chosen, options = parser.parse_known_args()
    known = [p.name for p in get_manager().backend(chosen.format).precisions]
    wanted = chosen.precisions.split(",") if chosen.precisions else known
    out = RESULTS / f"photographs-{chosen.format}.json"
    rows: dict[str, Any] = json.loads(out.read_text("utf-8"))["rows"] if out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = testdata.write_lite0(folder / "tf_efficientnet_lite0")
        classes = photo_trials.classes_of_timm(model, testdata.photographs())
        for precision in wanted:
            row = run_precision(chosen.format, precision, options, model, classes, folder)
            rows[precision] = row | {"options": options}
            print(precision, {k: v for k, v in row.items() if k != "versions"}, flush=True)
            ordered = {name: rows[name] for name in known if name in rows}
            command = "python benchmarks/photographs.py " + " ".join(sys.argv[1:])
            content = {"command": command, "rows": ordered}
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
