"""Draw how far the files of a format are from PyTorch, over timm's families, for each precision.

    pip install matplotlib
    python benchmarks/distribution.py onnx    # writes docs/pictures/families-onnx.svg

It draws what `python benchmarks/families.py` left.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"


def points(content: dict[str, Any]) -> dict[str, list[float]]:
    """The decibels of every family, by precision."""
    found: dict[str, list[float]] = {}
    for family in content["rows"].values():
        for precision, row in family["precisions"].items():
            # A float file beside a quantized one is not the precision that is drawn.
            beside = [v for name, v in row.get("beside", {}).items() if name != "float file"]
            known = [figure for figure in (row.get("snr_db"), *beside) if figure is not None]
            found.setdefault(precision, []).extend([min(known)] if known else [])
    return found


def draw(format: str) -> Path:
    """One row for each precision, one dot for each family, and the floor."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "timmx"  # the same figures give the same file
    from matplotlib import pyplot as plt

    from timmx_core.plugins.manager import get_manager

    floors = {p.name: p.floor_db for p in get_manager().backend(format).precisions}
    found = points(json.loads((RESULTS / f"families-{format}.json").read_text("utf-8")))
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.7 * len(found)))
    for row, (precision, values) in enumerate(found.items()):
        ordered = sorted(values)
        # Spread over the row in a fixed pattern, so that equal figures stay apart.
        heights = [row + 0.25 * ((index * 0.618) % 1 - 0.5) for index in range(len(ordered))]
        axes.plot(ordered, heights, "o", markersize=4, alpha=0.6, markeredgewidth=0)
        axes.vlines(floors[precision], row - 0.35, row + 0.35, colors="black")
    axes.set_yticks(range(len(found)), [f"{p} ({len(v)})" for p, v in found.items()])
    axes.invert_yaxis()
    axes.set_xlabel("dB against PyTorch; a dot is a family of timm, a line the floor")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"families-{format}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    print(draw(sys.argv[1]).relative_to(ROOT))
